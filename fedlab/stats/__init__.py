"""The mathematics as immutable values: additive ridge statistics, fixed point, seeded random features."""

from fedlab.stats.analytic import Analytic
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.dual_expansion import DualReLUTanh
from fedlab.stats.dual_stream import DualStream
from fedlab.stats.expansion import Expansion, Identity, RandomRBF, RandomReLU, SampledRBF
from fedlab.stats.fixed_point import FixedPoint
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.joint import Joint
from fedlab.stats.moments import ClassMoments, WithMoments
from fedlab.stats.noisy import NoisyGram
from fedlab.stats.notes import notes
from fedlab.stats.packed_size import packed_bytes
from fedlab.stats.per_class import ClassCounts, PerClass
from fedlab.stats.pseudo_features import balanced
from fedlab.stats.rebalanced import Filled, Tempered
from fedlab.stats.samples import one_hot
from fedlab.stats.solve import Solution
from fedlab.stats.total import StatisticsTotal, plain_sums
from fedlab.stats.wire import pack, unpack

__all__ = [
    "Analytic",
    "ClassCounts",
    "ClassMoments",
    "ClassWeights",
    "DualReLUTanh",
    "DualStream",
    "Expansion",
    "Filled",
    "FixedPoint",
    "GramStats",
    "GramSum",
    "Identity",
    "Joint",
    "NoisyGram",
    "PerClass",
    "RandomRBF",
    "RandomReLU",
    "SampledRBF",
    "Solution",
    "StatisticsTotal",
    "Tempered",
    "WithMoments",
    "balanced",
    "notes",
    "one_hot",
    "pack",
    "packed_bytes",
    "plain_sums",
    "unpack",
]
