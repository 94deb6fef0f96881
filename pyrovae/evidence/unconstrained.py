"""Maps from real numbers to the supports of latents, the same for all rows, in which latents can be moved."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import IndependentTransform, Transform

from pyrovae.data import Rows
from pyrovae.pair.bijections import bijection_to, is_real, of_rows
from pyrovae.pair.layout import Layout
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

MakeTransform: TypeAlias = Callable[[], Transform]


def bijections_of(vae: VAE, data: Rows) -> dict[str, MakeTransform | None]:
    """T by latent, the same for all rows; None for all real numbers.

    Raises:
        ValueError: latents that have no such T.

    """
    with vae.evaluating(), fixed_seed(0, vae.device):
        # Bounds that a model gives to each row are those of one row here, and so fit any number of rows.
        sites = sites_of(vae.model, data.take(slice(0, 1), vae.device))
        found = {name: _bijection(sites[name]) for name in vae.layout.latents}
        bounded = {name: make for name, make in found.items() if make is not None}
        for _, batch in data.in_blocks(vae.device) if bounded else ():
            sites = sites_of(vae.model, batch)
            for name, expected in bounded.items():
                if not _agree(expected, sites[name]):
                    raise ValueError(
                        f"the support of '{name}' differs between rows, or with other latents, so it has no fixed map "
                        "to real numbers. Let the model sample from a fixed support and map the draw, e.g. from the "
                        "unit interval to the bounds of a row."
                    )
    return found


def _bijection(site: Site) -> MakeTransform | None:
    support = site.support
    with suppress(ValueError):  # those that differ between rows are found later
        support = of_rows(support, site.event_dim)
    if site.discrete:
        raise ValueError(
            f"the guide samples '{site.name}', which is discrete ({site.family}): refining and annealing "
            "move continuous latents, so have it summed out with infer={'enumerate': 'parallel'} in the model."
        )
    if is_real(support):
        return None
    try:
        bijection_to(support)
    except NotImplementedError:
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        raise ValueError(
            f"the support of '{site.name}' ({type(support).__name__.strip('_')}, of {site.family}) has no "
            "bijection to real numbers: refining and annealing take supports that torch.distributions.biject_to knows. "
            "Without them there is ImportanceSampling, and a richer guide."
        ) from None
    return functools.partial(_make_transform, support, site.event_dim)


def _make_transform(support: constraints.Constraint, event_dim: int) -> Transform:
    transform = bijection_to(support)
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


def differentiable_recurrence(vae: VAE) -> AbstractContextManager[None]:
    """On a GPU, cuDNN's recurrent networks have no gradients in evaluation mode; torch's own have."""
    if not any(isinstance(module, nn.RNNBase) for module in vae.modules()):
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=False)


@dataclass(frozen=True)
class Unconstrained:
    """The latents of a row as one real vector u, [S,B,d]."""

    layout: Layout
    bijections: Mapping[str, MakeTransform | None]

    def flatten(self, latents: Mapping[str, Tensor]) -> Tensor:
        """From latents by site, [S, *inner plates, B, *event]."""
        parts = []
        for name, value in latents.items():
            transform = self._transform(name)
            u = value if transform is None else transform.inv(value)
            row_dim = -self.layout.sample_dim - 1
            parts.append(u.movedim(row_dim, 1).reshape(len(u), u.shape[row_dim], -1))
        return torch.cat(parts, -1)

    def unflatten(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Back to the latents, with log |dz/du| [S,B]."""
        latents, first = {}, 0
        log_volume = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        for name, latent in self.layout.latents.items():
            transform = self._transform(name)
            event = latent.event_shape if transform is None else transform.inverse_shape(latent.event_shape)
            batch = [1] * (-self.layout.sample_dim - 2)
            for dim, size in zip(latent.inner_dims, latent.inner_sizes, strict=True):
                batch[dim + 1 + len(batch)] = size
            count = math.prod(batch) * math.prod(event)
            value = u[..., first : first + count].reshape(*u.shape[:2], *batch, *event)
            value = value.movedim(1, 1 + len(batch))
            first += count
            if transform is not None:
                z = transform(value)
                log_det = transform.log_abs_det_jacobian(value, z).double()
                log_volume = log_volume + (log_det.flatten(1, -2).sum(1) if batch else log_det)
                value = z
            latents[name] = value
        return latents, log_volume

    def _transform(self, name: str) -> Transform | None:
        make = self.bijections[name]
        return None if make is None else make()
