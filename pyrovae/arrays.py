"""Arrays of rows, whoever made them, as tensors: in memory, or read and filled in by rows as they are asked for."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrovae.frames import is_anndata, numbers_of

if TYPE_CHECKING:
    from scipy import sparse

_Array = npt.NDArray[np.generic]

_REAL_NUMBERS = (
    "expected real numbers. Give real and imaginary parts, or size and angle, as columns of their own, such as "
    "torch.cat([x.real, x.imag], 1)."
)
# torch can do next to nothing with these.
_WIDER = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


class OnDemand(ABC):
    """Rows that lie elsewhere than in a tensor: `rows[index]` makes tensors of some."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """[B, ...] in memory."""
        taken = self._taken(index if isinstance(index, slice) else index.cpu().numpy())
        return _in_memory(taken, self.dtype)

    @abstractmethod
    def _taken(self, index: slice | _Array) -> _Array:
        """Some rows, in memory of their own."""

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point


class OnDisk(OnDemand):
    """Rows of a memory-mapped array: `rows[index]` reads them, as tensors."""

    def __init__(self, array: np.memmap[tuple[int, ...], np.dtype[np.generic]], dtype: torch.dtype) -> None:
        super().__init__(array.shape, dtype)
        self._array = array

    def _taken(self, index: slice | _Array) -> _Array:
        # Indices copy by themselves.
        return np.asarray(self._array[index].copy() if isinstance(index, slice) else self._array[index])


class Sparse(OnDemand):
    """Rows of a sparse matrix: `rows[index]` fills in the zeros of some, as tensors."""

    def __init__(self, matrix: sparse.spmatrix | sparse.sparray, dtype: torch.dtype) -> None:
        super().__init__(matrix.shape, dtype)
        self._matrix = matrix.tocsr()

    def _taken(self, index: slice | _Array) -> _Array:
        return np.asarray(self._matrix[index].toarray())


ARRAYS = (Tensor, OnDemand)


def as_tensor(
    argument: object, name: str, *, truth_is_number: bool, floats: torch.dtype | None = None
) -> object:
    """An array, a frame or a column of one, or AnnData's X, as rows; what is none of these as it is.

    Truth values of arrays become numbers, 0 and 1, or stay what they are, as masks are. Floating-point numbers of
    arrays become `floats`, torch's default if None.

    Raises:
        TypeError: what holds no numbers; sparse tensors.
        ValueError: whole numbers beyond 64 bits; a sparse array of other than two dimensions.

    """
    if isinstance(argument, Tensor):
        return _usable(argument, name)
    if is_anndata(argument):
        argument = _matrix_of(argument, name)
    if hasattr(argument, "to_numpy"):
        argument = numbers_of(argument, name)
    if _is_sparse(argument):
        _check_numbers(argument.dtype, name)
        if len(argument.shape) != 2:
            raise ValueError(
                f"{name} is a sparse array of shape {list(argument.shape)}: expected two dimensions. Fill it in with "
                ".toarray()."
            )
        return Sparse(argument, _dtype_of(argument.dtype, truth_is_number, floats))
    if not isinstance(argument, np.ndarray):
        return argument
    if isinstance(argument, np.ma.MaskedArray):
        argument = _without_mask(argument, name)
    _check_numbers(argument.dtype, name)
    dtype = _dtype_of(argument.dtype, truth_is_number, floats)
    if isinstance(argument, np.memmap):
        return OnDisk(argument, dtype)
    argument = np.ascontiguousarray(argument)
    return _in_memory(argument if argument.flags.writeable else argument.copy(), dtype)


def _without_mask(array: np.ma.MaskedArray, name: str) -> _Array:
    """A masked array's numbers, NaN where they are masked: what lies under a mask is anything."""
    count = int(np.ma.getmaskarray(array).sum())
    if count == 0:
        return np.asarray(array.data)
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} is a masked array of {array.dtype} with {count} masked entries, which are NaN here and no such "
            "numbers can be: convert it first, x.astype(float)."
        )
    return np.asarray(array.filled(np.nan))


def _matrix_of(cells: object, name: str) -> object:
    """The matrix of AnnData, [cells, genes]: NumPy's or SciPy's.

    Raises:
        ValueError: it has none.
        TypeError: one that lies in a file.

    """
    matrix: object = getattr(cells, "X")  # noqa: B009 - anndata is not imported here
    if matrix is None:
        raise ValueError(
            f"{name} is an AnnData without X: name a layer, pyrovae.from_anndata(adata, layer=...)."
        )
    if not (isinstance(matrix, np.ndarray) or _is_sparse(matrix)):
        raise TypeError(
            f"{name} is an AnnData whose X is {type(matrix).__name__}, which lies in a file: adata.to_memory() reads "
            "it, and leaves sparse counts sparse."
        )
    return matrix


def _is_sparse(argument: object) -> TypeGuard[sparse.sparray]:
    # Importing scipy.sparse changes the process's warnings; whoever has such a matrix has imported it.
    loaded = sys.modules.get("scipy.sparse")
    return loaded is not None and isinstance(argument, loaded.spmatrix | loaded.sparray)


def _check_numbers(dtype: np.dtype[np.generic], name: str) -> None:
    if dtype.kind == "c":
        raise TypeError(f"{name} is an array of {dtype}: {_REAL_NUMBERS}")
    if dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is an array of {dtype}: expected numbers. Encode text and objects as numbers first."
        )


def _usable(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_complex():
        raise TypeError(f"{name} is a tensor of {tensor.dtype}: {_REAL_NUMBERS}")
    if tensor.is_meta:
        raise TypeError(
            f"{name} is a meta tensor, which holds no values: expected one on the CPU or another device."
        )
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name} is a sparse tensor: expected a dense one, x.to_dense(), or a SciPy matrix, whose zeros are filled "
            "in batch by batch."
        )
    wider = _WIDER.get(str(tensor.dtype).removeprefix("torch."))
    return tensor if wider is None else _in_memory(tensor.cpu().numpy(), wider).to(tensor.device)


def _dtype_of(dtype: np.dtype[np.generic], truth_is_number: bool, floats: torch.dtype | None) -> torch.dtype:
    """Of the tensors that are made of an array."""
    if dtype.kind == "f" or (truth_is_number and dtype.kind == "b"):
        return floats or torch.get_default_dtype()
    return _WIDER.get(dtype.name) or torch.as_tensor(np.zeros((), dtype.newbyteorder("="))).dtype


def _in_memory(array: _Array, dtype: torch.dtype) -> Tensor:
    if array.dtype.name == "uint64" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(
            "the data hold whole numbers beyond 2**63: torch has none so large. Give them as floating-point numbers."
        )
    if array.dtype.name in _WIDER:
        array = array.astype(np.int64)
    elif array.dtype.itemsize > 8 or not array.dtype.isnative:
        array = array.astype(np.float64 if array.dtype.kind == "f" else array.dtype.newbyteorder("="))
    return torch.from_numpy(array).to(dtype)
