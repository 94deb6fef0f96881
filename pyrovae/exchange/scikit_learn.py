"""What probes and clusters need before scikit-learn does the work: scikit-learn itself, and one label for each row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

Labels = Tensor | npt.ArrayLike


def need_sklearn(what: str) -> None:
    """Raise unless scikit-learn is there.

    Raises:
        ModuleNotFoundError: says what needs it and how to get it.

    """
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{what} needs scikit-learn: pip install "pyrovae[sklearn]".', name="sklearn"
        ) from error


def labels_of_rows(labels: Labels, num_rows: int, name: str) -> np.ndarray:
    """One label for each row, [N].

    Raises:
        ValueError: another shape.

    """
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (num_rows,):
        raise ValueError(f"{name} has shape {list(array.shape)}: expected [{num_rows}], one for each row.")
    return array
