import re

import numpy as np
import pytest

from fedlab import checks
from fedlab.errors import BadInput


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.integer("k", 2.0, least=1), "k=2.0 must be a whole number >= 1"),
        (lambda: checks.integer("k", True), "k=True must be a whole number"),
        (lambda: checks.integer("k", 0, 1, 9, "say k=5"), "k=0 must be a whole number in [1, 9]: say k=5"),
        (lambda: checks.number("lr", 0, above=0), "lr=0 must be a finite number > 0"),
        (lambda: checks.number("lr", float("nan")), "lr=nan must be a finite number"),
        (lambda: checks.number("m", 1, least=0, below=1), "m=1 must be a finite number in [0, 1)"),
        (lambda: checks.number("m", "1", most=1), "m='1' must be a finite number <= 1"),
        (lambda: checks.share("rate", 1.5), "rate=1.5 must be a finite number in [0, 1]: 0 is none, 0.5 half, 1 all"),
        (lambda: checks.choice("mode", "exat", ("exact", "float64")), "did you mean 'exact'?"),
    ],
)
def test_a_refusal_has_the_value_the_limit_and_the_remedy(call, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        call()


def test_what_fits_is_returned():
    assert checks.integer("k", np.int64(3), least=3, most=3) == 3
    assert checks.number("lr", np.float32(0.5), above=0) == 0.5
    assert checks.share("rate", 1) == 1
    assert checks.choice("mode", "exact", ("exact",)) == "exact"
