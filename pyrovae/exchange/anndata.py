"""AnnData as rows: counts that stay sparse until a batch is taken, and columns of obs as context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.frames import in_words, is_anndata

if TYPE_CHECKING:
    from anndata import AnnData


def from_anndata(
    adata: AnnData, *, layer: str | None = None, context: Sequence[str] = ()
) -> tuple[object, ...]:
    """Cells as the arguments (x, *context) of a pair: of `pyrovae.fit` as a tuple, of all else one by one.

    `pv.fit(vae, adata)` takes AnnData as it is, and so does all that takes rows: its X, with the genes' names as
    columns, which other rows are then compared with. Sparse counts are filled in batch by batch. This is for layers,
    and for columns of obs as context.

    Args:
        adata: cells by genes, in memory.
        layer: which of `adata.layers` takes the place of X.
        context: names of columns of `adata.obs`: numbers become [N, 1], categories and truth values [N, options] of 0
            and 1, in the order of the categories.

    Returns:
        AnnData of the matrix alone, then tensors of torch's default dtype.

    Raises:
        ModuleNotFoundError: anndata is not there.
        TypeError: no AnnData; context that is neither numbers nor categories, or one name in place of a list.
        ValueError: a layer or a column that there is not, context that lacks values.

    Example:
        >>> rows = pv.from_anndata(adata, layer="counts", context=["batch"])  # doctest: +SKIP
        >>> history = pv.fit(vae, rows)  # doctest: +SKIP
        >>> adata.obsm["X_vae"] = pv.features(vae, *rows).numpy()  # doctest: +SKIP

    """
    try:
        from anndata import AnnData
    except ImportError as problem:
        raise ModuleNotFoundError(
            'from_anndata needs anndata: pip install "pyrovae[anndata]".', name="anndata"
        ) from problem
    if not is_anndata(adata):
        raise TypeError(f"adata is {type(adata).__name__}: expected an anndata.AnnData.")
    if isinstance(context, str):
        raise TypeError(f"context is {context!r}: expected a list of names, [{context!r}].")
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"there is no layer {layer!r}: there are {in_words(list(adata.layers)) or 'none'}.")
    if missing := [name for name in context if name not in adata.obs]:
        raise ValueError(
            f"obs has no {in_words(list(missing))}: its columns are {in_words(list(adata.obs.columns)) or 'none'}."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    cells = AnnData(matrix, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
    return cells, *(_context(adata.obs[name], name) for name in context)


def _context(values: pd.Series, name: str) -> Tensor:
    if values.isna().any():
        raise ValueError(
            f"obs[{name!r}] lacks {int(values.isna().sum())} values: context is what every row has. Make them a "
            "category of their own, or drop these cells."
        )
    if isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(values.dtype):
        categories = cast(pd.Categorical, pd.Categorical(values))
        codes = torch.from_numpy(np.array(categories.codes, dtype=np.int64))
        return torch.nn.functional.one_hot(codes, len(categories.categories)).to(torch.get_default_dtype())
    if not pd.api.types.is_numeric_dtype(values.dtype):
        raise TypeError(
            f"obs[{name!r}] is {values.dtype}: expected numbers or categories, "
            f"adata.obs[{name!r}] = adata.obs[{name!r}].astype('category')."
        )
    return torch.from_numpy(values.to_numpy(dtype=np.float64)).to(torch.get_default_dtype())[:, None]
