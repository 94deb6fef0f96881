"""Tensors as xarray Datasets: the names of variables, their dims and the labels along them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import Tensor

from pyrovae.pair.layout import Layout

SAMPLE_DIMS = ("chain", "draw")
ROW_DIM = "row"
WITHOUT_DRAWS = ("observed_data", "constant_data")
BY_ROW = ("log_likelihood", "sample_stats")


class Names:
    """Names, dims and coords of every variable of a pair, checked before any work is done.

    Args:
        layout: the pair's.
        constant: context by name; tensors have N rows.
        coords: labels by dim.
        dims: names of the dims after the row, by site or context.
        num_rows: N.

    Raises:
        ValueError: names of sites or dims that are not there, or that mean two things; labels of another number
            than the dim's length.

    """

    def __init__(
        self,
        layout: Layout,
        constant: Mapping[str, object],
        coords: Mapping[str, Collection[object]],
        dims: Mapping[str, Sequence[str]],
        num_rows: int,
    ) -> None:
        sites = {**layout.latents, **layout.enumerated, **layout.observed}
        shapes = {name: (*site.inner_sizes, *site.event_shape) for name, site in sites.items()}
        shapes |= {name: site.shape for name, site in layout.shared.items()}
        self.above_rows = {*layout.shared}
        for name, value in constant.items():
            shapes.setdefault(name, tuple(value.shape[1:]) if isinstance(value, Tensor) else ())
        self.variables = {name: _variable(name) for name in shapes}
        self.dims = {name: self._dims(name, len(shape), dims) for name, shape in shapes.items()}
        if unknown := sorted(set(dims) - set(shapes)):
            raise ValueError(f"dims names {unknown}: there are {sorted(shapes)}.")
        self._refuse_ambiguous()
        sizes = {ROW_DIM: num_rows}
        for name, shape in shapes.items():
            for dim, size in zip(self.dims[name], shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    raise ValueError(f"dim '{dim}' has length {size} at '{name}' and {sizes[dim]} elsewhere.")
        for dim, labels in coords.items():
            if dim not in sizes:
                raise ValueError(f"coords names the dim '{dim}': there are {sorted(sizes)}.")
            if len(labels) != sizes[dim]:
                raise ValueError(
                    f"coords gives {len(labels)} labels for '{dim}', which has length {sizes[dim]}."
                )
        self.coords = coords

    def dataset(self, group: str, values: Mapping[str, object]) -> xr.Dataset:
        """One group: values [S, B, ...] by site, [S, ...] of shared ones, or [B, ...] in groups without draws.

        Beside shared latents statistics are of draws, [S], and have no dimension of rows.
        """
        variables: dict[str, tuple[Sequence[str], npt.ArrayLike]] = {}
        for name, value in values.items():
            variable = self.variables.get(name, _variable(name))
            if not isinstance(value, Tensor):
                if isinstance(value, bool | int | float | str):  # context that is the same for every row
                    variables[variable] = ((), value)
                continue
            array = value.detach().cpu().numpy()
            event = [] if group in BY_ROW else self.dims[name]
            if name in self.above_rows or (group == "sample_stats" and self.above_rows):
                variables[variable] = ([*SAMPLE_DIMS, *event], array[None]) if array.ndim else ((), array)
            elif group in WITHOUT_DRAWS or name == "khat":
                variables[variable] = ([ROW_DIM, *event], array)
            else:
                variables[variable] = ([*SAMPLE_DIMS, ROW_DIM, *event], array[None])
        dataset = xr.Dataset(variables, attrs={"inference_library": "pyrovae"})
        labels = {dim: self.coords.get(str(dim), np.arange(size)) for dim, size in dataset.sizes.items()}
        return dataset.assign_coords(labels)

    def _dims(self, name: str, count: int, dims: Mapping[str, Sequence[str]]) -> list[str]:
        if name not in dims:
            return [f"{self.variables[name]}_dim_{i}" for i in range(count)]
        names = dims[name]
        if isinstance(names, str) or len(names) != count:
            raise ValueError(
                f"dims gives {names!r} for '{name}', which has {count} beside the rows: expected a list of {count}."
            )
        return list(names)

    def _refuse_ambiguous(self) -> None:
        variables = list(self.variables.values())
        for variable in variables:
            if variables.count(variable) > 1:
                same = [name for name, other in self.variables.items() if other == variable]
                raise ValueError(f"the sites {same} would all be '{variable}' in ArviZ: rename one of them.")
        for name, dims in self.dims.items():
            taken = [d for d in dims if d in (*SAMPLE_DIMS, ROW_DIM, *variables) or dims.count(d) > 1]
            if taken:
                raise ValueError(
                    f"the dims of '{name}' cannot be named {dims}: '{taken[0]}' is a site, another dim, or one of "
                    f"{[*SAMPLE_DIMS, ROW_DIM]}."
                )


def _variable(name: str) -> str:
    """A name that xarray and netCDF take: "/" separates groups there, and a dim's name is its labels'."""
    name = name.replace("/", ".")
    return f"{name}_" if name in (*SAMPLE_DIMS, ROW_DIM) else name
