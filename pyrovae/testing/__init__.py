"""The checks that pyrovae's own pairs pass, for pairs of users: `check_pair`, to be called in tests of theirs."""

from pyrovae.testing.check_pair import check_pair
from pyrovae.testing.report import PairCheckError, PairReport

__all__ = ["PairCheckError", "PairReport", "check_pair"]
