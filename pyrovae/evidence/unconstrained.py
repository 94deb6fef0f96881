"""Maps from real numbers to the supports of latents, the same for all rows, in which latents can be moved."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import IndependentTransform, Transform

from pyrovae.data import Rows
from pyrovae.evidence.memory import ROWS_AT_ONCE
from pyrovae.pair.sites import Site
from pyrovae.pair.support import check_support
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

MakeTransform: TypeAlias = Callable[[], Transform]


def checked_bijections(vae: VAE, data: Rows) -> dict[str, MakeTransform | None]:
    """T by latent, the same for all rows; None for all real numbers.

    Raises:
        ValueError: rows outside a likelihood's support; latents that have no such T.

    """
    with vae.evaluating(), fixed_seed(0, vae.device):
        # Bounds that a model gives to each row are those of one row here, and so fit any number of rows.
        sites = sites_of(vae.model, data.take(slice(0, 1), vae.device))
        found = {name: _bijection(sites[name]) for name in vae.layout.latents}
        for first in range(0, len(data), ROWS_AT_ONCE):
            batch = data.take(slice(first, first + ROWS_AT_ONCE), vae.device)
            check_support(vae.model, batch, first)
            sites = sites_of(vae.model, batch)
            for name, expected in found.items():
                if expected is not None and not _agree(expected, sites[name]):
                    raise ValueError(
                        f"the support of '{name}' differs between rows, or with other latents, so it has no fixed map "
                        "to real numbers. Let the model sample from a fixed support and map the draw, e.g. from the "
                        "unit interval to the bounds of a row."
                    )
    return found


def _bijection(site: Site) -> MakeTransform | None:
    support = site.support
    if site.discrete:
        raise ValueError(
            f"the guide samples '{site.name}', which is discrete ({site.family}): refining and annealing "
            "move continuous latents, so have it summed out with infer={'enumerate': 'parallel'} in the model."
        )
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if isinstance(base, type(constraints.real)):
        return None
    try:
        biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"the support of '{site.name}' ({type(base).__name__.strip('_')}, of {site.family}) has no "
            "bijection to real numbers: refining and annealing take supports that torch.distributions.biject_to knows."
        ) from None
    return functools.partial(_make_transform, support, site.event_dim)


def _make_transform(support: Any, event_dim: int) -> Transform:
    transform: Transform = biject_to(support)
    if transform.codomain.event_dim < event_dim:
        transform = IndependentTransform(transform, event_dim - transform.codomain.event_dim)
    # What was drawn is scored at the very u that gave it, also where T is flat at float32.
    return transform.with_cache(1)


def _agree(expected: MakeTransform, site: Site) -> bool:
    found = _bijection(site)
    if found is None:
        return False
    shape = found().inverse_shape(site.distribution.batch_shape + site.distribution.event_shape)
    u = torch.randn(shape, dtype=site.value.dtype, device=site.value.device)
    return torch.allclose(expected()(u), found()(u))


def differentiable_recurrence(vae: VAE) -> AbstractContextManager[Any]:
    """On a GPU, cuDNN's recurrent networks have no gradients in evaluation mode; torch's own have."""
    if not any(isinstance(module, nn.RNNBase) for module in vae.modules()):
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=False)
