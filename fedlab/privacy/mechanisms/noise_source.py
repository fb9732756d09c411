"""Where noise comes from: the operating system where the data are real, the run's seed where a run is to be repeated.

Noise that somebody can draw again hides nothing from them. A simulation repeats: its data are its own. A
deployment says `entropy=os`, and then no second run has the same noise.
"""

from __future__ import annotations

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.randomness import rng_for

SOURCES = ("seeded", "os")


def noise(entropy: str, seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one draw of noise: of a run's seed, or a client's in it, and a purpose, or of the system.

    Draws of other purposes have other noise; the source 'os' looks at neither.
    """
    if check_entropy(entropy) == "os":
        return np.random.default_rng()
    return rng_for(seed, purpose)


def check_entropy(entropy: str) -> str:
    """Return a source that is known."""
    return checks.choice("entropy", entropy, SOURCES)


def check_place(entropy: str, simulated: bool) -> None:
    """Refuse noise that can be drawn again where the data are not the simulation's own.

    Raises:
        BadInput: Seeded noise in a deployment.
    """
    if check_entropy(entropy) == "seeded" and not simulated:
        raise BadInput("entropy=seeded: whoever knows the seed can take the noise off; in a deployment say entropy=os")


def seeded_note(entropy: str) -> str | None:
    """Return what a reader must know of seeded noise; None where it is not."""
    if entropy == "os":
        return None
    return (
        "the noise is drawn from the run's seed, so that the run can be repeated, and whoever knows the seed can "
        "take it off again: with real data say entropy=os"
    )
