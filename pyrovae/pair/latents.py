"""Latents as users hand them in and get them: one tensor where a model has one latent site, else a dict by site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyrovae.pair.layout import Layout, pyro_layout

Latents: TypeAlias = Tensor | Mapping[str, Tensor]  # NumPy arrays are taken too


def one_or_dict(values: dict[str, Tensor]) -> Latents:
    """The only tensor there is, or all by site."""
    return next(iter(values.values())) if len(values) == 1 else values


def joined(draws: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One after the other along the dimension of samples, by site."""
    some = list(draws)
    return {name: torch.cat([one[name] for one in some]) for name in some[0]}


def averaged(means: Iterable[Latents]) -> Latents:
    """The mean of what several runs gave."""
    some = list(means)
    if isinstance(some[0], Tensor):
        return torch.stack([one for one in some if isinstance(one, Tensor)]).mean(0)
    by_site = [one for one in some if isinstance(one, Mapping)]
    return {name: torch.stack([one[name] for one in by_site]).mean(0) for name in by_site[0]}


def samples_first(z: Latents, layout: Layout, device: torch.device) -> tuple[dict[str, Tensor], bool]:
    """Users' latents as [S, B, ...] by site, and whether they came so: [B, ...] is one sample.

    Raises:
        TypeError: neither a tensor nor a dict.
        ValueError: other sites than the model's, shapes that do not fit it or each other.

    """
    given = _by_site(z, list(layout.hidden))
    batches = {}
    for name, site in layout.hidden.items():
        own = (*site.inner_sizes, *site.event_shape)
        value = given[name] = given[name].to(device)
        first = value.dim() - len(own)
        event = value.shape[value.dim() - len(site.event_shape) :]
        if event != site.event_shape or first not in (1, 2):
            wanted = ", ".join(["B", *(str(size) for size in own)])
            raise ValueError(
                f"the latent '{name}' has shape {list(value.shape)}: expected [{wanted}] or [S, {wanted}]."
            )
        batches[name] = value.shape[:first]
    if len(set(batches.values())) > 1:
        shapes = {name: list(value.shape) for name, value in given.items()}
        raise ValueError(f"the latents have different numbers of samples or rows: {shapes}.")
    with_samples = len(next(iter(batches.values()))) == 2
    return (given if with_samples else {n: value.unsqueeze(0) for n, value in given.items()}), with_samples


def as_pyro_has_them(given: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """From [S, B, ...] by site to Pyro's layout."""
    return {name: pyro_layout(given[name], site, layout.sample_dim) for name, site in layout.hidden.items()}


def num_rows_of(given: Mapping[str, Tensor]) -> int:
    """B of latents [S, B, ...]."""
    return next(iter(given.values())).shape[1]


def _by_site(z: Latents, names: list[str]) -> dict[str, Tensor]:
    if isinstance(z, Tensor | np.ndarray):
        if len(names) != 1:
            raise ValueError(f"the model has the latents {names}: give a dict of tensors by site.")
        z = {names[0]: z}
    if not isinstance(z, Mapping):
        raise TypeError(f"latents are {type(z).__name__}: expected a tensor, or a dict of tensors by site.")
    if set(z) != set(names):
        raise ValueError(f"got the latents {sorted(z)}: the model has {names}.")
    return {
        name: torch.as_tensor(z[name], dtype=torch.get_default_dtype())
        if isinstance(z[name], np.ndarray)
        else z[name]
        for name in names
    }
