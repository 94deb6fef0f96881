"""Real tables that ship inside scikit-learn and statsmodels, as frames of their own kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn import datasets


def diabetes() -> pd.DataFrame:
    """442 patients: ages, laboratory values, sex, and how far the disease went."""
    frame = datasets.load_diabetes(as_frame=True, scaled=False).frame
    return frame.assign(sex=frame["sex"].map({1: "one", 2: "two"}))


def wine() -> pd.DataFrame:
    """178 wines: 13 measurements and the grower."""
    frame = datasets.load_wine(as_frame=True).frame
    return frame.assign(target=frame["target"].map({0: "a", 1: "b", 2: "c"}))


def breast_cancer() -> pd.DataFrame:
    """569 tumours: 30 measurements and the finding."""
    frame = datasets.load_breast_cancer(as_frame=True).frame
    return frame.assign(target=frame["target"].map({0: "malignant", 1: "benign"}))


def election() -> pd.DataFrame:
    """944 voters of 1996 (statsmodels' anes96): ages, incomes, opinions in grades, votes."""
    from statsmodels.datasets import anes96

    frame = anes96.load_pandas().data.drop(columns=["logpopul"])
    return frame.assign(vote=frame["vote"].map({0: "Clinton", 1: "Dole"}), popul=frame["popul"] + 1)


def affairs() -> pd.DataFrame:
    """6366 wives (statsmodels' fair): ages, children, occupations, satisfaction in grades."""
    from statsmodels.datasets import fair

    frame = fair.load_pandas().data
    names = {
        column: frame[column].map(lambda code: f"o{code:g}") for column in ("occupation", "occupation_husb")
    }
    return frame.assign(affairs=np.where(frame["affairs"] > 0, "yes", "no"), **names)


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "wine": (wine, "target"),
    "diabetes": (diabetes, "target"),
    "election": (election, "vote"),
    "breast cancer": (breast_cancer, "target"),
    "affairs": (affairs, "affairs"),
}
"""By name: what loads the table, and the column that is predicted from the others."""


def halves(frame: pd.DataFrame, seed: int, share: float = 0.7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and rows to test on, in an order that the seed decides."""
    order = np.random.default_rng(seed).permutation(len(frame))
    cut = int(share * len(frame))
    return frame.iloc[order[:cut]].reset_index(drop=True), frame.iloc[order[cut:]].reset_index(drop=True)


def hidden(frame: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Which entries are taken away, at random; never all of a row."""
    rng = np.random.default_rng(seed)
    gone = rng.random(frame.shape) < share
    kept = rng.integers(frame.shape[1], size=len(frame))
    gone[np.arange(len(frame)), kept] = False
    return pd.DataFrame(gone, frame.index, frame.columns)


def is_number(column: pd.Series) -> bool:
    """Whether a column is scored by squares and not by shares of right labels."""
    return pd.api.types.is_numeric_dtype(column)
