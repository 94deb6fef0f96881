"""The narrow waist: row-wise log densities of a pair of Pyro programs.

For S samples and B rows every consumer of a pair (objectives, importance sampling, diagnostics, ArviZ)
needs only

    log p(x|z) [S,B]    log p(z) [S,B]    log q(z|x) [S,B]    the latents by site    each site's own terms

and this module runs the programs to get them, with `layout` (shapes), `sites` (densities of a trace), `terms` (their
sums) and `enumeration` (discrete latents summed out), in this room. Densities are those
of the *program*: masks are kept, while scales (a subsampled plate's N/B, `poutine.scale`) are left out, because a
scale belongs outside any logarithm of a mean and is no part of a density.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.enumeration import sites_summed_out
from pyrovae.pair.layout import Layout, as_the_program_takes, canonical
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.sites import SAMPLES_PLATE, Site, family_name, sample_sites, sites_of
from pyrovae.pair.terms import RowTerms as RowTerms
from pyrovae.random_state import fixed_seed


class NoMeanError(ValueError):
    """An observed site's family has no mean in closed form."""


def row_terms(pair: Pair, batch: Batch, num_samples: int) -> RowTerms:
    """Trace the guide once, replay the model against it once, and sum each site's density by row."""
    broadcasts = pair.layout.guide_broadcasts and pair.layout.model_broadcasts
    guide_sites = run_guide(pair, batch, num_samples, broadcasts=broadcasts)
    latents = {name: guide_sites[name].value for name in pair.layout.latents}
    model_sites = run_model(pair, batch, latents, num_samples, broadcasts=broadcasts)
    return RowTerms(model_sites, guide_sites, latents, pair.layout, broadcasts)


def run_guide(
    pair: Pair,
    batch: Batch,
    num_samples: int,
    *,
    latents: Mapping[str, Tensor] | None = None,
    broadcasts: bool | None = None,
) -> dict[str, Site]:
    """Draw S samples of each latent for each row, with log q(z|x) by site; or score given `latents` instead.

    Sites of the guide that `latents` does not name are drawn, auxiliary ones among them.
    """
    if broadcasts is None:
        broadcasts = pair.layout.guide_broadcasts
    program = pair.guide if latents is None else _given(pair.guide, pair.layout, latents, broadcasts)
    trace = _trace(program, batch, num_samples, pair.layout, broadcasts)
    _check_names("guide", trace, {*pair.layout.latents})
    return sites_of(dict(sample_sites(trace)), num_samples, pair.layout, broadcasts)


def run_model(
    pair: Pair,
    batch: Batch,
    latents: Mapping[str, Tensor],
    num_samples: int,
    *,
    broadcasts: bool | None = None,
) -> dict[str, Site]:
    """Score given latents: log p(z) and log p(x|z) by site.

    Where discrete latents are enumerated, all that depends on them is one term of the observed sites: the
    logarithm of its sum over their values.
    """
    if broadcasts is None:
        broadcasts = pair.layout.model_broadcasts
    program = pair.model
    if pair.layout.enumerated:
        program = poutine.enum(program, first_available_dim=pair.layout.sample_dim - 1)
    replayed = _given(program, pair.layout, latents, broadcasts)
    trace = _trace(replayed, batch, num_samples, pair.layout, broadcasts)
    _check_names("model", trace, {*pair.layout.latents, *pair.layout.enumerated, *pair.layout.observed})
    if pair.layout.enumerated:
        return sites_summed_out(trace, num_samples, pair.layout, broadcasts)
    return sites_of(dict(sample_sites(trace)), num_samples, pair.layout, broadcasts)


def enumerated_draws(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor], num_samples: int
) -> dict[str, Tensor]:
    """Exact posterior draws of the enumerated latents given the others: [S, *inner plates, B, *event]."""
    if not pair.layout.enumerated:
        return {}
    broadcasts = pair.layout.model_broadcasts
    conditioned = poutine.condition(
        pair.model, data=dict(as_the_program_takes(pair.layout, latents, broadcasts))
    )

    def program(*arguments: Any) -> None:
        # infer_discrete hides what is around it.
        with _samples_plate(num_samples, pair.layout, broadcasts), _RowsAsGiven(len(batch)):
            conditioned(*arguments)

    discrete = infer_discrete(program, first_available_dim=pair.layout.sample_dim - 1)
    trace = plain_trace(discrete, batch if broadcasts else batch.repeated(num_samples))
    return {
        name: canonical(
            trace.nodes[name]["value"], num_samples, pair.layout, len(site.event_shape), broadcasts=broadcasts
        )
        for name, site in pair.layout.enumerated.items()
    }


def guide_means(
    pair: Pair, batch: Batch, num_samples: int, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Posterior means of some latent sites, all if None, [1, *inner plates, B, *event].

    Exact for a single site whose family has a mean; else averages over draws, of conditional means where
    a family has them (Rao-Blackwell) and of the draws themselves where not.
    """
    if len(pair.layout.latents) == 1:
        with fixed_seed(0, batch.device):  # the draw is not used
            sites = run_guide(pair, batch, 1)
        mean = _site_mean(
            sites[next(iter(pair.layout.latents))], 1, pair.layout, pair.layout.guide_broadcasts
        )
        # An auxiliary site above it makes this the mean given one draw of that.
        if mean is not None and set(sites) == set(pair.layout.latents):
            return dict.fromkeys(pair.layout.latents, mean)
    sites = run_guide(pair, batch, num_samples)
    means = {}
    for name in pair.layout.latents if names is None else names:
        if family_name(sites[name].distribution) == "Categorical":
            raise ValueError(
                f"the latent '{name}' is categorical: its values are labels and have no mean. Use sample_posterior()."
            )
        mean = _site_mean(sites[name], num_samples, pair.layout, pair.layout.guide_broadcasts)
        draws = sites[name].value if mean is None else mean
        means[name] = draws.to(torch.get_default_dtype()).mean(0, keepdim=True)
    return means


def observed_means(pair: Pair, batch: Batch, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means of p(x|z) at given latents, enumerated ones too, by observed site: [S, *inner plates, B, *event].

    Of categories the probabilities, [..., options].
    """
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = _given(pair.model, pair.layout, latents, broadcasts)
    trace = _trace(replayed, batch, num_samples, pair.layout, broadcasts)
    means = {}
    for name in pair.layout.observed:
        distribution = trace.nodes[name]["fn"]
        mean, event_dim = _observed_mean(name, distribution)
        means[name] = canonical(mean, num_samples, pair.layout, event_dim, broadcasts=broadcasts)
    return means


def _observed_mean(name: str, distribution: Any) -> tuple[Tensor, int]:
    """The mean and its number of event dimensions: probabilities over the options of a category are one more."""
    event_dim = len(distribution.event_shape)
    innermost = distribution
    while hasattr(innermost, "base_dist"):
        innermost = innermost.base_dist
    if isinstance(innermost, torch.distributions.Categorical):
        return innermost.probs, event_dim + 1  # labels have no mean, their indicators have
    try:
        return distribution.mean, event_dim
    except NotImplementedError:
        raise NoMeanError(
            f"site '{name}' has no mean: {family_name(distribution)} gives none in closed form. "
            "Draw from p(x|z) instead, with sample_likelihood()."
        ) from None


def run_prior(pair: Pair, batch: Batch, num_samples: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ancestral draws of the latents and the observations: [S, *inner plates, B, *event]."""
    return _ancestral(pair, pair.model, batch, num_samples, pair.layout.model_broadcasts)


def run_predictive(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of the observations given latents, enumerated ones too: [S, *inner plates, B, *event]."""
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = _given(pair.model, pair.layout, latents, broadcasts)
    return _ancestral(pair, replayed, batch, num_samples, broadcasts)


def observations(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """What the model observes at each site: [1, *inner plates, B, *event]."""
    trace = plain_trace(pair.model, batch)
    return {
        name: canonical(trace.nodes[name]["value"], 1, pair.layout, len(site.event_shape), broadcasts=True)
        for name, site in pair.layout.observed.items()
    }


def plain_trace(program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None) -> Any:
    """One run on the rows as they are, without a samples plate; densities not computed."""
    if latents is not None:
        program = poutine.replay(program, trace=_as_trace(latents))
    with _RowsAsGiven(len(batch)):
        return poutine.trace(program).get_trace(*batch.arguments)


class _RowsAsGiven(Messenger):
    """A row plate has the rows at hand, in their order.

    A batch reaches the program already chosen, so the indices that `pyro.plate(..., subsample_size=)`
    would draw mean nothing; drawing them would only make results depend on how the plate is written. And a
    plate without a size, `pyro.plate("data")` as in some of Pyro's examples, gets that of the batch; its frame's
    `full_size` is None.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            msg["value"] = torch.arange(size, device=fn.device)
            msg["done"] = True
        msg["cond_indep_stack"] = tuple(
            frame._replace(size=self.num_rows, full_size=None)
            if frame.dim == -1 and frame.size == -1
            else frame
            for frame in msg["cond_indep_stack"]
        )


def _trace(program: Program, batch: Batch, num_samples: int, layout: Layout, broadcasts: bool) -> Any:
    with _samples_plate(num_samples, layout, broadcasts):
        return plain_trace(program, batch if broadcasts else batch.repeated(num_samples))


def _samples_plate(num_samples: int, layout: Layout, broadcasts: bool) -> AbstractContextManager[Any]:
    if not broadcasts:
        return nullcontext()
    plate: AbstractContextManager[Any] = pyro.plate(SAMPLES_PLATE, num_samples, dim=layout.sample_dim)
    return plate


def _given(program: Program, layout: Layout, latents: Mapping[str, Tensor], broadcasts: bool) -> Program:
    replayed: Program = poutine.replay(
        program, trace=_as_trace(as_the_program_takes(layout, latents, broadcasts))
    )
    return replayed


def _as_trace(latents: Mapping[str, Tensor]) -> Any:
    trace = poutine.Trace()
    for name, value in latents.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return trace


def _ancestral(
    pair: Pair, program: Program, batch: Batch, num_samples: int, broadcasts: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    trace = _trace(poutine.uncondition(program), batch, num_samples, pair.layout, broadcasts)

    def values(names: Any) -> dict[str, Tensor]:
        return {
            name: canonical(
                trace.nodes[name]["value"],
                num_samples,
                pair.layout,
                len(trace.nodes[name]["fn"].event_shape),
                broadcasts=broadcasts,
            )
            for name in names
        }

    return values([*pair.layout.latents, *pair.layout.enumerated]), values(pair.layout.observed)


def _check_names(which: str, trace: Any, expected: set[str]) -> None:
    found = {name for name, site in sample_sites(trace) if not site_is_factor(site)}
    auxiliary = {name for name in found - expected if trace.nodes[name]["infer"].get("is_auxiliary")}
    if found - auxiliary != expected:
        raise ValueError(
            f"the sites of the {which} change from call to call: at first they were {sorted(expected)}, now they are "
            f"{sorted(found - auxiliary)}. Let every call sample the same sites; mask what does not apply to a row."
        )


def _site_mean(site: Site, num_samples: int, layout: Layout, broadcasts: bool) -> Tensor | None:
    try:
        mean: Tensor = site.distribution.mean
    except NotImplementedError:
        return None
    if bool(mean.isnan().any()):  # families without a mean, such as Cauchy
        return None
    event_dim = len(site.distribution.event_shape)
    return canonical(mean, num_samples, layout, event_dim, broadcasts=broadcasts)
