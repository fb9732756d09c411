"""Every analytic method as a scikit-learn classifier, for pipelines, grids and whoever has no federation.

    from clients.estimators import AFLClassifier

`fit`, `partial_fit` with new classes at any time, `forget`, and `a + b` for classifiers that were fitted apart;
`fedlab.estimator` says what scores and probabilities mean. The papers stand in each method's own file, and so
does what its own parameters mean; the others are those of `AnalyticClassifier`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from clients.acil import ACIL
from clients.aefocl import AEFOCL
from clients.afl import AFL
from clients.air import AIR
from clients.dsal import DSAL
from clients.gacl import GACL
from clients.gkeal import GKEAL
from fedlab import checks
from fedlab.analytic import Analytic, DualReLUTanh, RandomRBF
from fedlab.analytic.expansion import Expansion
from fedlab.analytic.phases import Phases
from fedlab.errors import BadInput
from fedlab.estimator import AnalyticClassifier, Model
from fedlab.stats import GramStats

__all__ = [
    "ACILClassifier", "AEFOCLClassifier", "AFLClassifier", "AIRClassifier", "DSALClassifier",
    "GACLClassifier", "GKEALClassifier",
]  # fmt: skip


class AFLClassifier(AnalyticClassifier):
    """AFL: classifiers fitted apart and added up are the one that all samples together would have given.

    `width=None` is the paper's.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> a, b = AFLClassifier(width=100).fit(X[::2], y[::2]), AFLClassifier(width=100).fit(X[1::2], y[1::2])
        >>> ((a + b).predict(X) == AFLClassifier(width=100).fit(X, y).predict(X)).all()
        np.True_
    """

    _method = AFL


class ACILClassifier(AnalyticClassifier):
    """ACIL: phases of new classes leave the head that all of them together would have given."""

    _method = ACIL

    def __init__(self, width=2048, ridge=0.1, random_state=0, mode="float64", limit=1.0, bits=12, device="cpu"):
        super().__init__(width, ridge, random_state, mode, limit, bits, device)


class GACLClassifier(ACILClassifier):
    """GACL: as ACIL, also where classes of earlier phases return."""

    _method = GACL


class GKEALClassifier(AnalyticClassifier):
    """GKEAL: as ACIL, on a Gaussian kernel whose centres a seed draws from the public box [low, high].

    Args:
        sigma : float: Width of the kernel, in the units of the features.
        low, high : float: Box of the centres; the default is what `MinMaxScaler` makes of the features.
    """

    _method = GKEAL

    def __init__(
        self, width=2048, ridge=0.1, sigma=10.0, low=0.0, high=1.0,
        random_state=0, mode="float64", limit=1.0, bits=12, device="cpu",
    ):  # fmt: skip
        super().__init__(width, ridge, random_state, mode, limit, bits, device)
        self.sigma = sigma
        self.low = low
        self.high = high

    def _expansion(self) -> Expansion:
        width, seed = checks.integer("width", self.width), checks.integer("random_state", self.random_state)
        return RandomRBF(width, seed, self.sigma, self.low, self.high)


@dataclass(frozen=True, eq=False)
class DualModel(Model):
    """What DS-AL has learnt: the head is that of all phases in their order."""

    @cached_property
    def weight(self) -> Tensor:
        """The head with the last phase closed."""
        return self.statistics.closed.solution().weight


class DSALClassifier(AnalyticClassifier):
    """DS-AL: one `partial_fit` is one phase, whose order matters; within a phase nothing does.

    Args:
        width : int: Random projections; each has two features.
        ridge : float: Ridge of the main stream. Like `ratio` and `compensation_ridge` it must not change between
            phases.
        ratio : float: Weight of the compensation stream; 0 is ACIL.
        compensation_ridge : float: Ridge of the compensation stream.
        keep_phases : bool: Memory of every phase's sums, 2 width x 2 width numbers each: then any phase can forget,
            and streams of several phases can be merged, phase by phase.
    """

    _model, _method, _own = DualModel, DSAL, ("ratio", "compensation_ridge")

    def __init__(
        self, width=2048, ridge=0.1, ratio=0.6, compensation_ridge=0.1, keep_phases=False,
        random_state=0, mode="float64", limit=1.0, bits=12, device="cpu",
    ):  # fmt: skip
        super().__init__(width, ridge, random_state, mode, limit, bits, device)
        self.ratio = ratio
        self.compensation_ridge = compensation_ridge
        self.keep_phases = keep_phases

    def partial_fit(self, X, y, classes=None, new_phase=True):
        """Learn these samples too, as a phase of their own or as more of the last one.

        Args:
            X : array (n, d0):
            y : array (n,): Labels of any one kind; some may be new.
            classes : array or None: Labels to expect.
            new_phase : bool: Start of a phase; False: the samples belong to the phase of the call before.
        """
        return self._learn(X, y, classes, new_phase=new_phase)

    def forget(self, X, y, phase=None):
        """Unlearn samples of a phase.

        Args:
            X : array (n, d0):
            y : array (n,):
            phase : int or None: Phase they were learnt in, counted from 0; None only where there is one. All but the
                last need `keep_phases=True`.
        """
        return self._unlearn(X, y, phase=phase)

    def _expansion(self) -> Expansion:
        return DualReLUTanh(checks.integer("width", self.width), checks.integer("random_state", self.random_state))

    def _grown(self, learner: DSAL, before: Phases | None, new: GramStats, new_phase: bool = True) -> Phases:
        if isinstance(self.ridge, str):
            raise BadInput(f"ridge={self.ridge!r}: two streams need a number; search it on held-out samples")
        begun = Phases(learner.stream(self.ridge), new, () if self.keep_phases else None)
        if before is None:
            return begun
        before.check_fits(begun)
        return before.followed(new) if new_phase else before.joined(new)

    def _reduced(self, before: Phases, gone: GramStats, phase: int | None = None) -> Phases:
        if phase is None and before.num_closed:
            raise BadInput(f"there are {before.num_closed + 1} phases: say in which one the samples were")
        return before.without(gone, phase or 0)


class AIRClassifier(AnalyticClassifier):
    """AIR: classes weigh alike, however many samples they have, whenever they come.

    Args:
        tau : float: Tempering in 0..2: 0 weights every sample alike, 1 every class.
        memory : int or None: Bytes that the sums of all classes may hold; None: a share of what is available.
    """

    _method, _own = AIR, ("tau", "memory")

    def __init__(
        self, width=2048, ridge=0.1, tau=1.0, memory=None,
        random_state=0, mode="float64", limit=1.0, bits=12, device="cpu",
    ):  # fmt: skip
        super().__init__(width, ridge, random_state, mode, limit, bits, device)
        self.tau = tau
        self.memory = memory


class AEFOCLClassifier(AnalyticClassifier):
    """AEF-OCL: when a head is wanted, every class is filled to the size of the largest by pseudo-features.

    Args:
        spread : float: Scatter of pseudo-features: 1 as the samples do.
        random_state : int: Seed of the random features and of the pseudo-features.
    """

    _method, _own = AEFOCL, ("spread",)

    def __init__(
        self, width=2048, ridge=0.1, spread=1.0,
        random_state=0, mode="float64", limit=1.0, bits=12, device="cpu",
    ):  # fmt: skip
        super().__init__(width, ridge, random_state, mode, limit, bits, device)
        self.spread = spread

    def _learner(self, num_classes: int) -> Analytic:
        return replace(super()._learner(num_classes), seed=checks.integer("random_state", self.random_state))
