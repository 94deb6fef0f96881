"""Running a model that nobody has data for: what stands in their place, and whether the model minds.

A model that only observes `x` draws the same whatever `x` is. One that reads values of it (to make a mask, or a
rate) does not, and would give nonsense in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Batch, Rows
from pyrovae.pair import contract
from pyrovae.pair.draws import run_prior
from pyrovae.pair.means import NoMeanError
from pyrovae.pair.programs import Pair
from pyrovae.pair.row_specs import RowSpec, RowSpecs, check_columns, check_specs
from pyrovae.random_state import fixed_seed


def blank(
    specs: RowSpecs, num_rows: int, device: torch.device, *, real: float = math.nan, whole: int = 0
) -> Tensor:
    """Rows of the dtype and shape of `x` that hold nothing: NaN, or `real`, or `whole` where they are integers."""
    assert specs[0] is not None
    dtype, shape = specs[0].dtype, specs[0].shape
    filler = real if dtype.is_floating_point else whole
    return torch.full((num_rows, *shape), filler, dtype=dtype, device=device)


def checked_context(
    specs: RowSpecs, num_rows: int, context: tuple[object, ...], names: list[str], device: torch.device
) -> tuple[object, ...]:
    """What the pair takes beside `x`, on the device; `names` are those of its arguments, for what is said of them.

    Raises:
        ValueError: another number of arguments or of rows; else as `check_specs`.

    """
    if len(context) != len(specs) - 1:
        wanted = [_described(place, specs, num_rows, names) for place in range(1, len(specs))]
        raise ValueError(
            f"got {len(context)} context arguments: model and guide take {len(specs) - 1} beside x. "
            + (
                f"Give those of the {num_rows} rows to draw: {', '.join(wanted)}."
                if wanted
                else "Leave them out: rows are drawn from the model here, x among it."
            )
        )
    for place, argument in enumerate(context, 1):
        if isinstance(argument, Tensor | np.ndarray) and len(argument) != num_rows:
            raise ValueError(f"{num_rows} rows were asked for and context {place} has {len(argument)}.")
    if not context:
        return ()
    floats = next((spec.dtype for spec in specs if spec and spec.dtype.is_floating_point), None)
    data = Rows((torch.zeros(num_rows), *context), floats)
    check_columns(data.columns, specs)
    check_specs(data.arguments, [RowSpec(torch.get_default_dtype(), torch.Size()), *specs[1:]])
    return data.take(slice(None), device).context


def _described(place: int, specs: RowSpecs, num_rows: int, names: list[str]) -> str:
    """A context argument, as rows that nobody has data for need it."""
    name = names[place] if place < len(names) else f"context {place}"
    spec = specs[place]
    if spec is None:
        return f"{name} (what it was with the data)"
    dtype, shape = spec.dtype, spec.shape
    meant = ", True where there is something to draw if it is a mask" if dtype == torch.bool else ""
    return f"{name} ({str(dtype).removeprefix('torch.')} {[num_rows, *shape]}{meant})"


def reads_x(
    pair: Pair, specs: RowSpecs, num_rows: int, context: tuple[object, ...], device: torch.device
) -> bool:
    """Whether the model draws something else for another `x`, the random numbers being the same."""
    num_rows = min(num_rows, contract.PROBE_ROWS)
    few = Batch((torch.zeros(num_rows), *context))[:num_rows]
    draws = []
    for real, whole in ((-1.0, 0), (2.0, 1)):
        batch = Batch((blank(specs, num_rows, device, real=real, whole=whole), *few.context))
        with fixed_seed(0, device), explained():
            latents, observed = run_prior(pair, batch, 1)
        draws.append([*latents.values(), *observed.values()])
    return not all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


@contextmanager
def explained(which: str = "model") -> Iterator[None]:
    """Say of a failure of the model, or of the guide, inside that it came of running without data.

    Raises:
        ValueError: whatever failed, and what to do.

    """
    try:
        yield
    except NoMeanError:
        raise
    except Exception as error:  # whatever a program raises
        raise ValueError(
            f"the {which} failed without data: {type(error).__name__}: {error}\n  It seems to read values of x "
            "beyond observing them; move what it needs into a context argument."
        ) from error


def refuse_nan(values: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a site's values, made without data, are NaN."""
    for name, value in values.items():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ValueError(
                f"site '{name}' gives NaN without data: the model reads values of x beyond observing them, or "
                "its parameters are NaN. Move what it needs of x into a context argument."
            )
