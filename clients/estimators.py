"""Every analytic method as a scikit-learn classifier, for pipelines, grids and whoever has no federation.

    from clients.estimators import AFLClassifier

`fit`, `partial_fit` with new classes at any time, `forget`, and `a + b` for classifiers that were fitted apart;
`fedlab.estimator` says what scores and probabilities mean. The papers stand in each method's own file.
"""

from __future__ import annotations

from clients.afl import AFL
from fedlab.estimator import AnalyticClassifier

__all__ = ["AFLClassifier"]


class AFLClassifier(AnalyticClassifier):
    """AFL: classifiers fitted apart and added up are the one that all samples together would have given.

    Its parameters are those of `fedlab.estimator.AnalyticClassifier`; `width=None` is the paper's.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> a, b = AFLClassifier(width=100).fit(X[::2], y[::2]), AFLClassifier(width=100).fit(X[1::2], y[1::2])
    >>> ((a + b).predict(X) == AFLClassifier(width=100).fit(X, y).predict(X)).all()
    np.True_
    """

    def _learner(self, num_classes: int) -> AFL:
        return AFL(num_classes, self._expansion(), self.mode, self.limit, self.bits)
