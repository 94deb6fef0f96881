"""The figures of rows that the page shows, sorts, searches and colours by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyrovae.plots.panels.latent_space import MOST_CLASSES, MOST_LARGEST
from pyrovae.plots.style import Values, as_array

FORMAT, COUNT = "0.[000]", "0"


@dataclass(frozen=True)
class Column:
    """One figure of each row, [n]: numbers or text.

    Attributes:
        title: what people call it.
        values: numbers, or text.
        strange: which of its values are strange, if any: "lowest" or "highest".

    """

    title: str
    values: np.ndarray
    strange: str = ""

    @property
    def text(self) -> bool:
        """Whether its values are text."""
        return self.values.dtype.kind not in "iuf"

    @property
    def classes(self) -> bool:
        """Whether its values are classes: text, or few different whole numbers."""
        if self.text:
            return True
        different = np.unique(self.values)
        return len(different) <= MOST_CLASSES and bool(np.all(different == np.round(different)))

    @property
    def format(self) -> str:
        """How its numbers are written, in Bokeh's own way (numbro)."""
        whole = self.values.dtype.kind in "iu" or bool(np.all(self.values == np.round(self.values)))
        return COUNT if whole else FORMAT


def column(title: str, values: Values, strange: str = "") -> Column:
    """A column of numbers as they are, and of all else as text."""
    array = as_array(values)
    if array.dtype.kind == "b":
        array = array.astype(int)
    if array.dtype.kind not in "iuf":
        array = np.array([str(value) for value in array.tolist()], dtype=object)
    return Column(title, array, strange)


def classes_of(values: np.ndarray) -> np.ndarray:
    """Classes as text; of more than can be told apart the smaller ones together, as "others"."""
    text = np.array(
        [f"{v:g}" if isinstance(v, float | int) else str(v) for v in values.tolist()], dtype=object
    )
    names, sizes = np.unique(text.astype(str), return_counts=True)
    if len(names) <= MOST_CLASSES:
        return text
    kept = set(names[np.argsort(-sizes, kind="stable")[:MOST_LARGEST]].tolist())
    others = f"{len(names) - len(kept)} others"
    return np.array([one if one in kept else others for one in text], dtype=object)


def in_order(classes: np.ndarray) -> list[str]:
    """The different classes: numbers by size, then text by letter."""

    def key(name: str) -> tuple[bool, float, str]:
        try:
            return False, float(name), ""
        except ValueError:
            return True, 0.0, name

    return sorted(set(classes.tolist()), key=key)
