"""The mathematics as immutable values: additive ridge statistics, fixed point, seeded random features."""

from fedlab.stats.analytic import Analytic
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.dual_expansion import DualReLUTanh
from fedlab.stats.dual_stream import DualStream
from fedlab.stats.expansion import Expansion, Identity, RandomRBF, RandomReLU, SampledRBF
from fedlab.stats.fixed_point import FixedPoint
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.packed_size import packed_bytes
from fedlab.stats.packing import pack, unpack
from fedlab.stats.samples import one_hot
from fedlab.stats.solve import Solution

__all__ = [
    "Analytic",
    "ClassWeights",
    "DualReLUTanh",
    "DualStream",
    "Expansion",
    "FixedPoint",
    "GramStats",
    "GramSum",
    "Identity",
    "RandomRBF",
    "RandomReLU",
    "SampledRBF",
    "Solution",
    "one_hot",
    "pack",
    "packed_bytes",
    "unpack",
]
