"""The sites of a traced program: which carry a density, and that density by sample and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.pair.layout import Layout, by_row, canonical

SAMPLES_PLATE = "_pyrovae_samples"


@dataclass(frozen=True)
class Site:
    """One sample statement, for S samples of B rows.

    `value` is [S, *inner plates, B, *event] for a latent and as the program gave it for an observation;
    `distribution` has the batch shape in which the program ran; `log_prob` is [S,B], in nats.
    """

    name: str
    observed: bool
    value: Tensor
    distribution: Any
    log_prob: Tensor
    mask: Any


def sample_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """The sample statements of a trace that carry a density: no subsampling, no deterministic sites."""
    for name, site in trace.nodes.items():
        if (
            site["type"] == "sample"
            and not site_is_subsample(site)
            and not site["infer"].get("_deterministic")
        ):
            yield name, site


def log_density(site: Any) -> Tensor:
    """A traced site's log density with its mask and without any scale, in Pyro's batch layout."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    masked: Tensor = scale_and_mask(log_prob, mask=site["mask"])
    return masked


def sites_of(
    traced: Mapping[str, Any], num_samples: int, layout: Layout, broadcasts: bool
) -> dict[str, Site]:
    """Each traced site with its value in canonical layout and its density by row."""
    sites = {}
    for name, site in traced.items():
        value = site["value"]
        if not site["is_observed"]:
            event_dim = len(site["fn"].event_shape)
            value = canonical(value, num_samples, layout, event_dim, broadcasts=broadcasts)
        log_prob = by_row(log_density(site), num_samples, layout, broadcasts)
        sites[name] = Site(name, site["is_observed"], value, site["fn"], log_prob, site["mask"])
    return sites


def stacked_sum(terms: list[Tensor], like: Tensor) -> Tensor:
    """The sum of some terms; zeros of the given shape if there are none."""
    return torch.stack(terms).sum(0) if terms else torch.zeros_like(like)


def family_name(distribution: Any) -> str:
    """The innermost distribution's class name, for messages."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__


def plate_scale(site: Any) -> float:
    """N/B of a traced site's row plate: 1 where it is not subsampled."""
    frame = next(f for f in site["cond_indep_stack"] if f.dim == -1)
    return 1.0 if frame.full_size is None else float(frame.full_size / frame.size)


def row_plate_scale(trace: Any) -> float:
    """The row plate's N/B in a trace whose densities have no other scale.

    Raises:
        ValueError: a density with another scale than its plates give it.

    """
    scale = 1.0
    for name, site in sample_sites(trace):
        scale = plate_scale(site)
        if isinstance(site["scale"], Tensor) or float(site["scale"]) != scale:
            raise ValueError(
                f"site '{name}' is scaled by {site['scale']} where its plate says {scale}: objectives by row weigh no "
                "site. Leave poutine.scale out (beta= weighs the rate), or use Pyro's own pyro.infer.Trace_ELBO()."
            )
    return scale
