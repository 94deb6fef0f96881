"""What a VAE gives by site, as one table: of a `MixedTableModel`, or of a model that observes all columns at once."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pyrovae.evidence.imputed import Imputation
from pyrovae.models import MixedTableModel
from pyrovae.pair.latents import Latents
from pyrovae.vae import VAE


def as_table(vae: VAE, values: Latents) -> Tensor:
    """Observed values [..., D] with columns in the order of x."""
    if isinstance(values, Tensor):
        return values
    return cast(MixedTableModel, vae.model).table(values)


def probabilities_of(vae: VAE, found: Imputation, place: int) -> Tensor | None:
    """Of the options of a column, [N, options]; None where it is a number."""
    if not isinstance(vae.model, MixedTableModel):
        return None
    for part, columns in enumerate(vae.model.columns):
        if place in columns and (of_part := found.probabilities.get(f"x_{part}")) is not None:
            return of_part[:, columns.index(place)]
    return None


def check_model(vae: object, example: Tensor) -> VAE:
    """A VAE that takes such rows [N, D].

    Raises:
        TypeError: no VAE.
        ValueError: it observes several sites, and its model is no `MixedTableModel`; rows that do not fit it.

    """
    if not isinstance(vae, VAE):
        raise TypeError(f"make_vae gave {type(vae).__name__}: expected a pyrovae.VAE.")
    vae.rows(example)
    sites = vae.layout.observed
    D = example.shape[1]
    if not isinstance(vae.model, MixedTableModel) and (
        len(sites) != 1 or next(iter(sites.values())).event_shape != torch.Size([D])
    ):
        raise ValueError(
            f"the VAE of make_vae observes {list(sites)}: expected a MixedTableModel, or one site of all {D} columns."
        )
    return vae
