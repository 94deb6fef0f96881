"""Whether models observe the same numbers of the same rows, without which their log p(x) cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.checks import said_of
from pyrovae.data import Batch, Rows
from pyrovae.evidence.results import LogMarginal
from pyrovae.pair.observed import observations_of
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# Rows on which models must agree about what they observe.
ROWS_TO_CHECK = 32


def data_of_all(vaes: Mapping[str, VAE], x: object, *context: object) -> Rows:
    """The data, made to `Rows` once and checked against each pair."""
    data = None
    for name, vae in vaes.items():
        with said_of(f"the model '{name}'"):
            data = vae.rows(x, *context) if data is None else vae.rows(data)
    assert data is not None
    return data


def check_same_rows(results: Mapping[str, LogMarginal]) -> None:
    """Figures must be of equally many rows, and all of probabilities or all of densities.

    Raises:
        ValueError: they are not (named).

    """
    first_name, first = next(iter(results.items()))
    for name, result in results.items():
        if len(result) != len(first):
            raise ValueError(
                f"'{first_name}' has {len(first)} rows and '{name}' {len(result)}: a comparison takes the same rows."
            )
        if isinstance(result.dimensions, str) != isinstance(first.dimensions, str):
            density, discrete = (
                (name, first_name) if isinstance(result.dimensions, str) else (first_name, name)
            )
            raise ValueError(
                f"'{density}' holds densities and '{discrete}' probabilities: they have different units, and their "
                "logarithms cannot be compared."
            )


def check_same_numbers(vaes: Mapping[str, VAE], data: Rows) -> None:
    """Every model must observe the same numbers of each row, each as discrete or as continuous alike.

    Raises:
        ValueError: they do not (named).

    """
    first_name = ""
    first: dict[str, Tensor] = {}
    for name, vae in vaes.items():
        batch = data.take(slice(0, ROWS_TO_CHECK), vae.device)
        with vae.evaluating(), fixed_seed(0, vae.device):
            numbers = _numbers(vae, batch)
        if not first:
            first_name, first = name, numbers
            continue
        for kind, other in (("discrete", "continuous"), ("continuous", "discrete")):
            if _same(first[kind], numbers[other]) and first[kind].shape[1] and not first[other].shape[1]:
                raise ValueError(
                    f"the model '{first_name}' observes {kind} values and '{name}' {other} ones: a probability and a "
                    "density have different units, and their logarithms cannot be compared. Compare models whose "
                    "likelihoods are of one kind."
                )
        if not all(_same(first[kind], numbers[kind]) for kind in first):
            raise ValueError(
                f"the models '{first_name}' and '{name}' observe different numbers of the same rows "
                f"({_words(first)} against {_words(numbers)}, masked ones aside, or the same number on another "
                "scale): their log p(x) are of different data. Give both models the same columns, masks and scale."
            )


def _numbers(vae: VAE, batch: Batch) -> dict[str, Tensor]:
    """The numbers that a model observes of each row, sorted, by kind: [B, count], NaN last for masked ones."""
    found = observations_of(vae, batch).values()
    B = len(batch)
    return {
        kind: torch.cat(
            [o.numbers().cpu() for o in found if o.discrete == discrete] + [torch.empty(B, 0, device="cpu")],
            1,
        )
        .double()
        .sort(1)
        .values
        for kind, discrete in (("discrete", True), ("continuous", False))
    }


def _same(a: Tensor, b: Tensor) -> bool:
    # Masked numbers are NaN and come last; tables with and without room for them may differ in width.
    width = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(t, (0, width - t.shape[1]), value=math.nan) for t in (a, b))
    return torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


def _words(numbers: Mapping[str, Tensor]) -> str:
    return " and ".join(
        f"{int((~values.isnan()).sum())} {kind}" for kind, values in numbers.items() if values.shape[1]
    )
