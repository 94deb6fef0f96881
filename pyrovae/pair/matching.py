"""Whether the sites of model and guide fit each other and the data: which there are, their events, their densities."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.runtime import Message as PyroMessage
from pyro.util import check_site_shape
from torch import Tensor

from pyrovae.checks import level_of_caller
from pyrovae.data import Batch
from pyrovae.pair.dtype_advice import as_binary, as_float
from pyrovae.pair.sites import Site


def latents_of(model_sites: Mapping[str, Site], enumerated: set[str]) -> dict[str, Site]:
    """The model's sites that a guide has to sample."""
    return {n: site for n, site in model_sites.items() if not site.observed and n not in enumerated}


def enumerated_of(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> set[str]:
    """The model's latents that are marked for enumeration and left to it by the guide."""
    return {
        name
        for name, site in model_sites.items()
        if not site.observed and name not in guide_sites and site.to_be_enumerated
    }


def check_observations(model_sites: Mapping[str, Site]) -> None:
    """Raise unless the model observes something and has latents."""
    if not any(site.observed and not site.factor for site in model_sites.values()):
        raise ValueError(
            f"the model observes nothing: its sites are {_listed(model_sites)}. "
            "Pass the data to one of them, pyro.sample(..., obs=x)."
        )
    if all(site.observed for site in model_sites.values()):
        raise ValueError(
            f"the model has no latents: every site of it ({_listed(model_sites)}) is observed. "
            "A VAE needs at least one pyro.sample without obs=."
        )


def check_latents(
    model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], enumerated: set[str]
) -> None:
    """Raise unless the guide samples what the model has as latents, and observes nothing."""
    latents = latents_of(model_sites, enumerated).keys()
    for name, site in guide_sites.items():
        if site.observed and not site.factor:
            raise ValueError(
                f"the guide observes '{name}'. Only the model observes; let the guide sample the latents "
                f"{_listed(latents)}."
            )
    sampled = {n for n, site in guide_sites.items() if not site.observed and not site.auxiliary}
    if absent := [name for name in latents - sampled if name.endswith("_unobserved")]:
        raise ValueError(
            f"the model uses obs_mask=, whose absent values are the latents {_listed(absent)}. Sample them in the "
            "guide by these names, let the guide be derived, VAE(model), or if they are discrete have them summed out "
            "with pyro.infer.config_enumerate(model) (Pyro drops infer= beside obs_mask=)."
        )
    if latents - sampled:
        raise ValueError(
            f"the guide forgets the latent {_listed(latents - sampled)} of the model: it samples "
            f"{_listed(sampled)}. Add pyro.sample with that name to the guide, observe the site in the model, or "
            "have it summed out with infer={'enumerate': 'parallel'} if it is discrete."
        )
    if sampled - latents:
        known = f"its latents are {_listed(latents)}"
        raise ValueError(
            f"the guide samples {_listed(sampled - latents)}, which the model does not know: {known}. "
            "Rename the site, sample it in the model too, or draw the latents from a distribution with it summed out."
        )


def check_same_sites(which: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Raise unless a program has the sites that it had at first."""
    if {*found} != {*expected}:
        raise ValueError(
            f"the sites of the {which} change from call to call: at first they were {sorted(expected)}, now they are "
            f"{sorted(found)}. Let every call sample the same sites; mask what does not apply to a row."
        )


def check_masks(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> None:
    """Raise where the guide draws what the model observes by `obs_mask=`: known values have no density in the guide."""
    for name, site in guide_sites.items():
        base = name.removesuffix("_unobserved")
        if f"{base}_observed" not in model_sites or name not in model_sites:
            continue
        is_masked = isinstance(site.distribution, MaskedDistribution) or isinstance(site.mask, Tensor)
        if not is_masked or bool((site.unmasked & ~model_sites[name].unmasked).any()):
            raise ValueError(
                f"the guide draws '{name}' also in rows whose '{base}' is observed, where the model has no such "
                "latent: log p(x) would be off by the entropy of what is drawn. Mask it as the model does, with "
                f"pyro.poutine.mask(mask=~known): pyro.sample('{name}', ...)."
            )


def check_event(kind: str, site: Site, value: Tensor) -> None:
    """Raise unless a value has the event shape that the site's distribution has in the model."""
    event_shape = site.distribution.event_shape
    row = value.shape[1:] if kind == "observed" and len(site.distribution.batch_shape) == 1 else torch.Size()
    if row and row != event_shape and row.numel() == event_shape.numel():
        remedy = (
            "x.flatten(1)"
            if len(event_shape) == 1
            else f"x.reshape(len(x), {', '.join(map(str, event_shape))})"
        )
        raise ValueError(
            f"the observed site '{site.name}' has event shape {tuple(event_shape)} in the model ({site.family}), but "
            f"the data hold rows of shape {tuple(row)}: as many numbers, {_product(event_shape)} = {_product(row)}. "
            f"Give them the model's shape, {remedy}, or let the last layer of the model have theirs."
        )
    if kind == "observed" and value.dim() == site.event_dim > 1:
        raise ValueError(
            f"the observed site '{site.name}' has event shape {tuple(event_shape)} in the model ({site.family}), which "
            f"takes in the rows: of data {list(value.shape)} a row has {value.dim() - 1} dimensions. Declare these, "
            f".to_event({value.dim() - 1})."
        )
    if kind == "observed" and value.dim() == site.event_dim == 1:
        raise ValueError(
            f"the observed site '{site.name}' has event shape {tuple(event_shape)} in the model ({site.family}), but "
            "the data hold a single number a row, without a dimension of columns. Give it one, x[:, None], of a data "
            "frame frame[[name]] in place of frame[name]."
        )
    lacks_rows = kind == "latent" and value.dim() <= site.event_dim
    came = value.shape[max(0, value.dim() - site.event_dim + lacks_rows) :]
    if value.dim() < site.event_dim or came != event_shape:
        source = "the data hold rows" if kind == "observed" else "the guide draws it with an event"
        raise ValueError(
            f"the {kind} site '{site.name}' has event shape {tuple(event_shape)} in the model "
            f"({site.family}), but {source} of shape {tuple(row or came)}. "
            "Make the last layer, or the data, fit; or move dimensions into the event with .to_event()."
        )


def check_dtype(site: Site, batch: Batch) -> None:
    """Raise TypeError where a site observes truth values or whole numbers that its family cannot reckon with."""
    dtype = site.value.dtype
    if dtype.is_floating_point:
        return
    try:
        replace(site, value=torch.zeros_like(site.value)).log_density()  # noughts are in most supports
    except ValueError:
        return
    except RuntimeError as error:
        remedy = f"convert it first, with {as_float(site.value)}."
        if site.family == "Bernoulli" and int(site.value.max()) > 1:
            remedy += f" {as_binary(site.value)}."
        raise TypeError(
            f"{_whole_numbers(site, batch)} where {site.family} of site '{site.name}' needs floating-point numbers: "
            f"{remedy}"
        ) from error


def warn_of_whole_numbers(model_sites: Mapping[str, Site], batch: Batch) -> None:
    """Warn where a density of real numbers observes integers, such as 8-bit pixels that nobody has scaled."""
    for site in model_sites.values():
        if site.observed and not site.factor and not site.discrete and not site.value.is_floating_point():
            warnings.warn(
                f"{_whole_numbers(site, batch)}, which {site.family} of site '{site.name}' takes for real numbers: "
                "log p(x) is then that of a density, on the scale that they have. If that is meant, convert them "
                f"first, with {as_float(site.value)}; counts and labels have likelihoods of their own, such as "
                "Poisson, NegativeBinomial and Categorical.",
                stacklevel=level_of_caller(),
            )


def _whole_numbers(site: Site, batch: Batch) -> str:
    """Which argument it observes, and of which dtype it is."""
    dtype = site.value.dtype
    names = ["x", *(f"context {place}" for place in range(1, len(batch.arguments)))]
    of_dtype = (n for n, a in zip(names, batch.arguments, strict=True) if getattr(a, "dtype", None) == dtype)
    kind = "truth values" if dtype == torch.bool else "integers"
    return f"{next(of_dtype, 'the data')} holds {kind} ({dtype})"


def check_mask_shape(which: str, site: Site) -> None:
    """Raise ValueError unless a statement's mask says of each of its rows whether it counts."""
    if not isinstance(site.mask, Tensor):
        return
    batch = site.distribution.batch_shape
    try:
        fits = torch.broadcast_shapes(site.mask.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits or site.mask.dtype != torch.bool:
        raise ValueError(
            f"site '{site.name}' of the {which} has a mask of {site.mask.dtype} and shape {list(site.mask.shape)}: "
            f"expected torch.bool and {list(batch)}, which says of each row whether it counts. Masks of entries of an "
            "event go to the distribution before .to_event: dist.Normal(...).mask(...).to_event(1)."
        )


def check_log_prob(site: Site) -> None:
    """Raise, with Pyro's advice, unless a site's density has the shape of its plates."""
    try:
        log_prob = site.log_density()
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            f"site '{site.name}' has no density at values that it has not drawn itself ({type(error).__name__}: "
            f"{error}). Flows whose transforms have no inverse, such as planar and radial ones, score their own draws "
            "alone: take them for the guide, and one with an inverse, such as affine_coupling, for the model."
        ) from error
    message = {
        "name": site.name,
        "log_prob": log_prob,
        "cond_indep_stack": site.plates,
        "fn": site.distribution,
        "infer": site.infer,
    }
    try:
        check_site_shape(
            cast("PyroMessage[..., Tensor]", message), max_plate_nesting=max(len(log_prob.shape), 8)
        )
    except ValueError as error:
        raise ValueError(str(error).strip()) from None


def _product(shape: torch.Size) -> str:
    return "*".join(map(str, shape)) or "1"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"
