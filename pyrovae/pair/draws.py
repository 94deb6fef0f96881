"""Draws: of rows from the model, of observations given latents, of latents that are summed out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.layout import as_the_program_takes, canonical
from pyrovae.pair.options import drawn_one_by_one
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.running import samples_plate, trace_of_samples
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import as_given, given, sites_in, sites_of


def enumerated_draws(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor], num_samples: int
) -> dict[str, Tensor]:
    """Exact posterior draws of the enumerated latents given the others: [S, *inner plates, B, *event]."""
    if not pair.layout.enumerated:
        return {}
    if any(site.event_shape for site in pair.layout.enumerated.values()):
        return drawn_one_by_one(pair, batch, latents, num_samples)  # Pyro's own draws know no events
    broadcasts = pair.layout.model_broadcasts
    known = as_the_program_takes(pair.layout, latents, broadcasts)
    conditioned = poutine.condition(pair.model, data={n: value.contiguous() for n, value in known.items()})

    def program(*arguments: object) -> None:
        # infer_discrete hides what is around it.
        with samples_plate(num_samples, pair.layout, broadcasts), as_given(batch):
            conditioned(*arguments)

    discrete = infer_discrete(program, first_available_dim=pair.layout.sample_dim - 1)
    sites = sites_of(discrete, batch if broadcasts else batch.repeated(num_samples))
    return _values(sites, pair.layout.enumerated, pair, num_samples, broadcasts)


def run_prior(pair: Pair, batch: Batch, num_samples: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ancestral draws of the latents and the observations: [S, *inner plates, B, *event]."""
    return _ancestral(pair, pair.model, batch, num_samples, pair.layout.model_broadcasts)


def run_predictive(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of the observations given latents, enumerated ones too: [S, *inner plates, B, *event]."""
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = given(pair.model, as_the_program_takes(pair.layout, latents, broadcasts))
    return _ancestral(pair, replayed, batch, num_samples, broadcasts)


def _ancestral(
    pair: Pair, program: Program, batch: Batch, num_samples: int, broadcasts: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    free = poutine.uncondition(program)
    sites = sites_in(trace_of_samples(free, batch, num_samples, pair.layout, broadcasts))
    latents, observed = (
        _values(sites, names, pair, num_samples, broadcasts)
        for names in (pair.layout.hidden, pair.layout.observed)
    )
    return latents, observed


def _values(
    sites: Mapping[str, Site], names: Iterable[str], pair: Pair, num_samples: int, broadcasts: bool
) -> dict[str, Tensor]:
    """Of some sites, [S, *inner plates, B, *event]."""
    return {
        name: canonical(
            sites[name].value, num_samples, pair.layout, sites[name].event_dim, broadcasts=broadcasts
        )
        for name in names
    }
