"""How many samples of each class there are: what the first of two rounds adds."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.union import counts_without


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Counts, additive.

    Attributes:
        class_counts: Samples n_y per class, (c,).
    """

    class_counts: Int64[Tensor, " c"]

    def __add__(self, other: ClassCounts) -> ClassCounts:
        self.check_fits(other)
        return ClassCounts(self.class_counts + other.class_counts)

    def __sub__(self, other: ClassCounts) -> ClassCounts:
        self.check_fits(other)
        return ClassCounts(counts_without(self.class_counts, other.class_counts))

    def check_fits(self, other: ClassCounts) -> None:
        """Refuse counts of other classes."""
        if len(self.class_counts) != len(other.class_counts):
            raise BadInput(
                f"cannot combine counts of {len(self.class_counts)} classes with those of "
                f"{len(other.class_counts)}: every client must use the same classes"
            )
