"""GKEAL's client: few-shot class-incremental learning on a Gaussian kernel.

    h_j = exp(-|x - c_j|^2 / (2 sigma^2))       W_t = (sum_{s<=t} h_s'h_s + g I)^-1 sum_{s<=t} h_s'Y_s

The paper draws the centres from the first task's samples. In a federation that would hand out features, and
the head would depend on who came first: centres are drawn from a public box by a seed here. Where all samples
are on one machine, `fedlab.stats.SampledRBF.of(x, width, sigma, seed)` is the paper's expansion.

Zhuang et al., GKEAL: Gaussian Kernel Embedded Analytic Learning for Few-Shot Class Incremental Task, CVPR
2023, pages 7746-7755; c_j the centres, d of them, sigma = 10.
https://openaccess.thecvf.com/content/CVPR2023/html/Zhuang_GKEAL_Gaussian_Kernel_Embedded_Analytic_Learning_for_Few-Shot_Class_Incremental_CVPR_2023_paper.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlab.analytic import ContinualLearner, Expansion, RandomRBF


@dataclass(frozen=True)
class GKEAL(ContinualLearner):
    """The analytic learner on a Gaussian kernel; its parameters are those of `Analytic`."""

    expansion: Expansion = field(default_factory=RandomRBF)
