"""Learners in closed form: which features enter the sum, and how the sum becomes a head."""

from fedlab.analytic.dual_expansion import DualReLUTanh
from fedlab.analytic.dual_stream import DualStream
from fedlab.analytic.expansion import Expansion, Identity, RandomRBF, RandomReLU, SampledRBF
from fedlab.analytic.joint import Joint
from fedlab.analytic.learner import Analytic, ContinualLearner
from fedlab.analytic.pseudo_features import balanced
from fedlab.analytic.rebalanced import Filled, Tempered

__all__ = [
    "Analytic", "ContinualLearner", "DualReLUTanh", "DualStream", "Expansion", "Filled", "Identity", "Joint",
    "RandomRBF", "RandomReLU", "SampledRBF", "Tempered", "balanced",
]  # fmt: skip
