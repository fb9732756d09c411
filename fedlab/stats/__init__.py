"""The mathematics as immutable values: additive ridge statistics, fixed point, seeded random features."""

from fedlab.stats.arithmetic.fixed_point import FixedPoint
from fedlab.stats.arithmetic.samples import one_hot
from fedlab.stats.arithmetic.solve import Solution
from fedlab.stats.class_counts import ClassCounts
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.moments import ClassMoments, WithMoments
from fedlab.stats.noisy import NoisyGram
from fedlab.stats.per_class import PerClass
from fedlab.stats.serialization.packed_size import packed_bytes
from fedlab.stats.serialization.wire import pack, unpack
from fedlab.stats.total import StatisticsTotal, plain_sums, total_of

__all__ = [
    "ClassCounts", "ClassMoments", "ClassWeights", "FixedPoint", "GramStats", "GramSum", "NoisyGram",
    "PerClass", "Solution", "StatisticsTotal", "WithMoments", "one_hot", "pack", "packed_bytes",
    "plain_sums", "total_of", "unpack",
]  # fmt: skip
