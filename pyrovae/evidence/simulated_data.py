"""Rows that the model itself has made, together with the latents that made them: exact draws of their posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.above_rows import refuse_shared
from pyrovae.pair.observed import observations_of
from pyrovae.pair.programs import argument_names
from pyrovae.pair.without_data import blank
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE

# Makes `x`, [M, ...], from the observations by site, [M, ...] each; or all arguments, (x, *context).
AsX: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor | tuple[object, ...]]


def simulated(
    vae: VAE, num_rows: int, context: tuple[object, ...], as_x: AsX | None, what: str = "this"
) -> tuple[dict[str, Tensor], Rows]:
    """Draw z and x from the model: the latents by site, [M, ...] each, and x with its context as data.

    Arguments that the model observes, by the name of the site, are what was simulated too.

    Raises:
        ValueError: shared latents, about which `what` does not ask; as `VAE.sample_prior`; an `x` from which the model
            does not observe what was simulated, or no way to make one.

    """
    refuse_shared(vae, what)
    latents, observed = vae.sample_prior(num_rows, *context)
    made = _own_arguments(vae, observed, context) if as_x is None else as_x(observed)
    data = vae.rows(*made) if isinstance(made, tuple) else vae.rows(made, *context)
    _check_observed(vae, data, observed, masks_allowed=as_x is not None)
    return latents, data


def simulated_like(
    vae: VAE, data: Rows, num_rows: int, as_x: AsX | None = None
) -> tuple[dict[str, Tensor], Rows]:
    """As `simulated`, in the context of some of these rows, and lacking what they lack.

    Their latents are exact draws given what is left, if what a row lacks does not depend on the values it would have.
    """
    like = data.take(evenly(len(data), num_rows), vae.device)
    latents, rows = simulated(vae, num_rows, like.context, as_x)
    if like.absent:
        arguments = zip(rows.take(slice(None), vae.device).arguments, like.arguments, strict=True)
        rows = vae.rows(*(_lacking_as(argument, given) for argument, given in arguments))
    return latents, rows


def evenly(N: int, count: int) -> Tensor:
    """Places of some of N rows, evenly spaced; of more than N, some repeatedly."""
    return (torch.arange(count) * N) // count


def _lacking_as(argument: object, given: object) -> object:
    """An argument that lacks what a given one lacks."""
    if isinstance(argument, Tensor) and isinstance(given, Tensor) and given.is_floating_point():
        return argument.masked_fill(given.isnan(), torch.nan)
    return argument


def _own_arguments(
    vae: VAE, observed: Mapping[str, Tensor], context: tuple[object, ...]
) -> tuple[object, ...]:
    """(x, *context): the first is what the one site observes, or each what the site of its name observes."""
    if len(observed) == 1:
        ((name, value),) = observed.items()
        return (_as_rows(vae, 0, "x", name, value), *context)
    arguments = [blank(vae.row_specs, len(next(iter(observed.values()))), vae.device), *context]
    names = argument_names(vae.model)[: len(arguments)]
    if not {*names[:1]} <= {*observed} <= {*names}:
        raise ValueError(
            f"the model observes several sites, {sorted(observed)}: give as_x, which makes x from them, e.g. "
            "as_x=lambda observed: torch.cat([observed['a'], observed['b']], -1), or all arguments where several are "
            "observed, as_x=lambda observed: (observed['a'], observed['b'])."
        )
    for name, value in observed.items():
        place = names.index(name)
        arguments[place] = _as_rows(vae, place, name, name, value)
    return tuple(arguments)


def _as_rows(vae: VAE, place: int, argument: str, site: str, value: Tensor) -> Tensor:
    """What a site observes, in the shape and dtype of an argument."""
    template = blank(vae.row_specs[place:], len(value), vae.device)
    if template.numel() != value.numel():
        raise ValueError(
            f"site '{site}' observes {value[0].numel()} numbers of a row and {argument} has {template[0].numel()}: "
            "give as_x, which makes x from {name: observations}."
        )
    return value.reshape(template.shape).to(template.dtype)


def _check_observed(vae: VAE, data: Rows, observed: Mapping[str, Tensor], *, masks_allowed: bool) -> None:
    """Raise unless the model observes of `x` what was simulated, masked entries aside."""
    batch = data.take(slice(None), vae.device)
    with vae.evaluating(), fixed_seed(0, vae.device):
        found = observations_of(vae, batch)
    for name, observation in found.items():
        if not masks_allowed and not bool(observation.unmasked.all()):
            raise ValueError(
                f"site '{name}' masks some observations, and a guide must not see what the model does not: give as_x, "
                "which makes x from {name: observations} with a filler where the mask is."
            )
        numbers = observation.numbers()
        counted = ~numbers.isnan()
        of_site = observed[name].cpu().double().reshape(numbers.shape)
        if not torch.allclose(numbers[counted], of_site[counted], rtol=1e-5, atol=1e-6):
            raise ValueError(
                f"given the simulated x, site '{name}' observes something else than was simulated (it transforms x, or "
                "takes other entries of it): give as_x, which makes x from {name: observations}."
            )
