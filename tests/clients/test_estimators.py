from sklearn.utils.estimator_checks import parametrize_with_checks

from clients.estimators import AFLClassifier

ESTIMATORS = [AFLClassifier(width=64), AFLClassifier(width=64, mode="exact", limit=8.0, bits=16)]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)
