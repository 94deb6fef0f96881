"""The narrow waist: row-wise log densities of a pair of Pyro programs.

For S samples and B rows every consumer of a pair (objectives, importance sampling, diagnostics, ArviZ)
needs only

    log p(x|z) [S,B]    log p(z) [S,B]    log q(z|x) [S,B]    the latents by site    each site's own terms

and this is the one module that runs Pyro programs under a trace to get them. Densities are those of the
*program*: masks are kept, while scales (a subsampled plate's N/B, `poutine.scale`) are left out, because a
scale belongs outside any logarithm of a mean and is no part of a density.

Inside, tensors keep Pyro's layout: [S, *inner plates, B, *event], one batch dimension for each plate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

Program = Callable[..., Any]
Arguments = tuple[Any, ...]

SAMPLES_PLATE = "_pyrovae_samples"


@dataclass(frozen=True)
class SiteLayout:
    """A site's event shape and the dims of its plates inside the row plate."""

    event_shape: torch.Size
    inner_dims: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What one run of a pair showed: its sites, and how many samples at once are drawn.

    `sample_dim` is the plate dimension for samples, left of every plate of the pair. A program that cannot
    broadcast over it runs on repeated rows instead, with the same results. `latents` are what the guide
    samples; `enumerated` are the model's discrete latents that are summed out instead.
    """

    sample_dim: int
    latents: Mapping[str, SiteLayout]
    observed: Mapping[str, SiteLayout]
    enumerated: Mapping[str, SiteLayout] = field(default_factory=dict)
    guide_broadcasts: bool = True
    model_broadcasts: bool = True


class Pair(Protocol):
    """What the waist needs of a VAE."""

    @property
    def model(self) -> Program:
        """p(x, z)."""

    @property
    def guide(self) -> Program:
        """q(z|x)."""

    @property
    def layout(self) -> Layout:
        """Found by `pyrovae.contract.inspect_pair`."""


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


@dataclass(frozen=True)
class RowTerms:
    """Row-wise log densities of one batch; every tensor [S,B], in nats."""

    model_sites: Mapping[str, Site]
    guide_sites: Mapping[str, Site]
    latents: Mapping[str, Tensor]
    layout: Layout
    broadcasts: bool

    @property
    def log_likelihood(self) -> Tensor:
        """log p(x|z), summed over the observed sites; enumerated latents are summed out of it."""
        return torch.stack([site.log_prob for site in self.model_sites.values() if site.observed]).sum(0)

    @property
    def log_prior(self) -> Tensor:
        """log p(z), summed over the latent sites."""
        terms = [site.log_prob for site in self.model_sites.values() if not site.observed]
        return _stacked_sum(terms, like=self.log_likelihood)

    @property
    def log_guide(self) -> Tensor:
        """log q(z|x), summed over everything that the guide samples, auxiliary sites included."""
        terms = [site.log_prob for site in self.guide_sites.values()]
        return _stacked_sum(terms, like=self.log_likelihood)

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z|x): unbiased estimates of p(x), as logarithms."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def rate(self) -> Tensor:
        """KL from q(z|x) to p(z): analytic for each site that has a closed form, else log q - log p.

        The closed form conditions on the sampled values of the latents above it, so its mean over samples
        is the KL of the whole hierarchy.
        """
        own = [name for name in self.latents if name in self.model_sites]
        terms = [self.site_rate(name) for name in own]
        # What has no counterpart: auxiliary sites, and latents coupled by enumeration.
        terms += [site.log_prob for name, site in self.guide_sites.items() if name not in own]
        terms += [-s.log_prob for n, s in self.model_sites.items() if not s.observed and n not in own]
        return _stacked_sum(terms, like=self.log_likelihood)

    def site_rate(self, name: str) -> Tensor:
        """The rate of one latent site, [S,B]."""
        q, p = self.guide_sites[name], self.model_sites[name]
        analytic = _analytic_kl(q, p)
        if analytic is None:
            return q.log_prob - p.log_prob
        return _by_row(analytic, len(q.log_prob), self.layout, self.broadcasts)


def row_terms(pair: Pair, arguments: Arguments, num_samples: int) -> RowTerms:
    """Trace the guide once, replay the model against it once, and sum each site's density by row."""
    broadcasts = pair.layout.guide_broadcasts and pair.layout.model_broadcasts
    guide_sites = run_guide(pair, arguments, num_samples, broadcasts=broadcasts)
    latents = {name: guide_sites[name].value for name in pair.layout.latents}
    model_sites = run_model(pair, arguments, latents, num_samples, broadcasts=broadcasts)
    return RowTerms(model_sites, guide_sites, latents, pair.layout, broadcasts)


def run_guide(
    pair: Pair, arguments: Arguments, num_samples: int, *, broadcasts: bool | None = None
) -> dict[str, Site]:
    """Draw S samples of each latent for each row, with log q(z|x) by site."""
    if broadcasts is None:
        broadcasts = pair.layout.guide_broadcasts
    trace = _trace(pair.guide, arguments, num_samples, pair.layout, broadcasts)
    return _sites(trace, num_samples, pair.layout, broadcasts)


def run_model(
    pair: Pair,
    arguments: Arguments,
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
    trace = _trace(replayed, arguments, num_samples, pair.layout, broadcasts)
    sites = _sites_summed_out if pair.layout.enumerated else _sites
    return sites(trace, num_samples, pair.layout, broadcasts)


def enumerated_draws(
    pair: Pair, arguments: Arguments, latents: Mapping[str, Tensor], num_samples: int
) -> dict[str, Tensor]:
    """Exact posterior draws of the enumerated latents given the others: [S, *inner plates, B, *event]."""
    if not pair.layout.enumerated:
        return {}
    broadcasts = pair.layout.model_broadcasts
    conditioned = poutine.condition(pair.model, data=dict(_in_layout(pair.layout, latents, broadcasts)))

    def program(*arguments: Any) -> None:
        with _samples_plate(num_samples, pair.layout, broadcasts):  # infer_discrete hides plates around it
            conditioned(*arguments)

    discrete = infer_discrete(program, first_available_dim=pair.layout.sample_dim - 1)
    trace = plain_trace(discrete, arguments if broadcasts else _repeat(arguments, num_samples))
    return {
        name: _canonical(
            trace.nodes[name]["value"], num_samples, pair.layout, len(site.event_shape), broadcasts=broadcasts
        )
        for name, site in pair.layout.enumerated.items()
    }


def guide_means(pair: Pair, arguments: Arguments, num_samples: int) -> dict[str, Tensor]:
    """Posterior means by latent site, [1, *inner plates, B, *event].

    Exact for a single site whose family has a mean; else averages over draws, of conditional means where
    a family has them (Rao-Blackwell) and of the draws themselves where not.
    """
    if len(pair.layout.latents) == 1:
        with fixed_seed(0, arguments[0].device):  # the draw is not used
            sites = run_guide(pair, arguments, 1)
        mean = _site_mean(
            sites[next(iter(pair.layout.latents))], 1, pair.layout, pair.layout.guide_broadcasts
        )
        if mean is not None:
            return dict.fromkeys(pair.layout.latents, mean)
    sites = run_guide(pair, arguments, num_samples)
    means = {}
    for name in pair.layout.latents:
        mean = _site_mean(sites[name], num_samples, pair.layout, pair.layout.guide_broadcasts)
        draws = sites[name].value if mean is None else mean
        means[name] = draws.to(torch.get_default_dtype()).mean(0, keepdim=True)
    return means


def observed_means(pair: Pair, arguments: Arguments, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means of p(x|z) at given latents, enumerated ones too, by observed site: [S, *inner plates, B, *event]."""
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = _given(pair.model, pair.layout, latents, broadcasts)
    trace = _trace(replayed, arguments, num_samples, pair.layout, broadcasts)
    means = {}
    for name in pair.layout.observed:
        distribution = trace.nodes[name]["fn"]
        try:
            mean = distribution.mean
        except NotImplementedError:
            raise ValueError(
                f"site '{name}' has no mean: {family_name(distribution)} gives none in closed form. "
                "Draw from the model instead, with generate()."
            ) from None
        means[name] = _canonical(
            mean, num_samples, pair.layout, len(distribution.event_shape), broadcasts=broadcasts
        )
    return means


def run_prior(
    pair: Pair, arguments: Arguments, num_samples: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ancestral draws of the latents and the observations: [S, *inner plates, B, *event]."""
    return _ancestral(pair, pair.model, arguments, num_samples, pair.layout.model_broadcasts)


def run_predictive(
    pair: Pair, arguments: Arguments, latents: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of the observations given latents, enumerated ones too: [S, *inner plates, B, *event]."""
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = _given(pair.model, pair.layout, latents, broadcasts)
    return _ancestral(pair, replayed, arguments, num_samples, broadcasts)


def observations(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    """What the model observes at each site: [1, *inner plates, B, *event]."""
    trace = plain_trace(pair.model, arguments)
    return {
        name: _canonical(trace.nodes[name]["value"], 1, pair.layout, len(site.event_shape), broadcasts=True)
        for name, site in pair.layout.observed.items()
    }


def plain_trace(program: Program, arguments: Arguments, latents: Mapping[str, Tensor] | None = None) -> Any:
    """One run on the rows as they are, without a samples plate; densities not computed."""
    if latents is not None:
        program = poutine.replay(program, trace=_as_trace(latents))
    with _RowsAsGiven():
        return poutine.trace(program).get_trace(*arguments)


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


class BatchTerms:
    """Collects what a Pyro objective sees while it runs, so that a history can tell its parts.

    Wrap model and guide, run the objective, then read `take(num_particles)`: sums over the batch of the
    ELBO, log p(x|z) and log q - log p(z), without scales, on the device (nothing is synchronised).
    `plate_scale` is the N/B of the row plate in the last runs, 1 where it is not subsampled.
    """

    def __init__(self) -> None:
        self.plate_scale = 1.0
        self._guide_traces: list[Any] = []
        self._model_traces: list[Any] = []

    def model(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._model_traces)

    def guide(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._guide_traces)

    @torch.no_grad()
    def take(self, num_particles: int) -> Tensor:
        """Sums over rows, means over particles: (ELBO, reconstruction, rate); forgets the runs."""
        log_likelihood = log_prior = log_guide = torch.zeros(())
        self.plate_scale = _plate_scale(self._model_traces[0])
        for trace in self._model_traces:
            for _, site in sample_sites(trace):
                if site["is_observed"]:
                    log_likelihood = log_likelihood + log_density(site).sum()
                else:
                    log_prior = log_prior + log_density(site).sum()
        for trace in self._guide_traces:
            for _, site in sample_sites(trace):
                log_guide = log_guide + log_density(site).sum()
        self._model_traces.clear()
        self._guide_traces.clear()
        rate = log_guide - log_prior
        return torch.stack([log_likelihood - rate, log_likelihood, rate]) / num_particles


def rows_first(value: Tensor, site: SiteLayout) -> Tensor:
    """From Pyro's layout to the users': [S, B, *inner plates, *event]; plates not its own are dropped."""
    row_dim = value.dim() - 1 - len(site.event_shape)
    keep = {row_dim + 1 + dim for dim in site.inner_dims}
    for dim in range(row_dim - 1, 0, -1):
        if dim not in keep:
            value, row_dim = value.squeeze(dim), row_dim - 1
    return value.movedim(row_dim, 1)


def pyro_layout(value: Tensor, site: SiteLayout, sample_dim: int) -> Tensor:
    """From the users' layout [S, B, *inner plates, *event] to Pyro's: the inverse of `rows_first`."""
    event_dim = len(site.event_shape)
    value = value.movedim(1, value.dim() - 1 - event_dim)
    for dim in range(-2, sample_dim, -1):
        if dim not in site.inner_dims:
            value = value.unsqueeze(value.dim() - event_dim + dim + 1)
    return value


def slice_latents(
    latents: Mapping[str, Tensor], layout: Layout, samples: slice, rows: slice
) -> dict[str, Tensor]:
    """Some samples of some rows."""
    taken = {}
    for name, value in latents.items():
        row_dim = value.dim() - 1 - len(layout.latents[name].event_shape)
        index = [slice(None)] * value.dim()
        index[0], index[row_dim] = samples, rows
        taken[name] = value[tuple(index)]
    return taken


def num_rows(arguments: Arguments) -> int:
    """B: the length of the first tensor."""
    return next(len(argument) for argument in arguments if isinstance(argument, Tensor))


@contextmanager
def fixed_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed` inside and leave torch's random state as it was outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _RowsAsGiven(Messenger):
    """A subsampled row plate takes the rows at hand, in their order, and draws no random numbers.

    A batch reaches the program already chosen, so the indices that `pyro.plate(..., subsample_size=)`
    would draw mean nothing; drawing them would only make results depend on how the plate is written.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else fn.subsample_size
            msg["value"] = torch.arange(size, device=fn.device)
            msg["done"] = True


def _trace(program: Program, arguments: Arguments, num_samples: int, layout: Layout, broadcasts: bool) -> Any:
    with _samples_plate(num_samples, layout, broadcasts):
        return plain_trace(program, arguments if broadcasts else _repeat(arguments, num_samples))


def _samples_plate(num_samples: int, layout: Layout, broadcasts: bool) -> AbstractContextManager[Any]:
    if not broadcasts:
        return nullcontext()
    plate: AbstractContextManager[Any] = pyro.plate(SAMPLES_PLATE, num_samples, dim=layout.sample_dim)
    return plate


def _repeat(arguments: Arguments, num_samples: int) -> Arguments:
    # Samples vary slowest, so that random numbers come in the same order as under a samples plate.
    return tuple(
        argument.repeat(num_samples, *[1] * (argument.dim() - 1))
        if isinstance(argument, Tensor) and argument.dim() > 0
        else argument
        for argument in arguments
    )


def _given(program: Program, layout: Layout, latents: Mapping[str, Tensor], broadcasts: bool) -> Program:
    replayed: Program = poutine.replay(program, trace=_as_trace(_in_layout(layout, latents, broadcasts)))
    return replayed


def _in_layout(layout: Layout, latents: Mapping[str, Tensor], broadcasts: bool) -> Mapping[str, Tensor]:
    """Latents as a program takes them: under a samples plate, or on repeated rows."""
    if broadcasts:
        return latents
    sites = {**layout.latents, **layout.enumerated}
    return {name: _flatten_samples(value, len(sites[name].event_shape)) for name, value in latents.items()}


def _as_trace(latents: Mapping[str, Tensor]) -> Any:
    trace = poutine.Trace()
    for name, value in latents.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return trace


def _ancestral(
    pair: Pair, program: Program, arguments: Arguments, num_samples: int, broadcasts: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    trace = _trace(poutine.uncondition(program), arguments, num_samples, pair.layout, broadcasts)

    def values(names: Any) -> dict[str, Tensor]:
        return {
            name: _canonical(
                trace.nodes[name]["value"],
                num_samples,
                pair.layout,
                len(trace.nodes[name]["fn"].event_shape),
                broadcasts=broadcasts,
            )
            for name in names
        }

    return values([*pair.layout.latents, *pair.layout.enumerated]), values(pair.layout.observed)


def _sites(trace: Any, num_samples: int, layout: Layout, broadcasts: bool) -> dict[str, Site]:
    return _sites_of(dict(sample_sites(trace)), num_samples, layout, broadcasts)


def _sites_of(
    traced: Mapping[str, Any], num_samples: int, layout: Layout, broadcasts: bool
) -> dict[str, Site]:
    sites = {}
    for name, site in traced.items():
        value = site["value"]
        if not site["is_observed"]:
            event_dim = len(site["fn"].event_shape)
            value = _canonical(value, num_samples, layout, event_dim, broadcasts=broadcasts)
        log_prob = _by_row(log_density(site), num_samples, layout, broadcasts)
        sites[name] = Site(name, site["is_observed"], value, site["fn"], log_prob, site["mask"])
    return sites


def _sites_summed_out(trace: Any, num_samples: int, layout: Layout, broadcasts: bool) -> dict[str, Site]:
    """The sites of a trace run under enumeration.

    Latents that no enumerated one bears on keep a site of their own. The others are one site, log p of them
    all with the enumerated ones summed out; the observations are another, log p(x|z) = log p(x, z) - log p(z).
    """
    trace.symbolize_dims()
    traced = dict(sample_sites(trace))
    terms = {name: log_density(site) for name, site in traced.items()}

    def summed_out(names: Iterable[str]) -> Tensor:
        joint = _sum_out(trace, {name: (traced[name], terms[name]) for name in names})
        return _by_row(joint, num_samples, layout, broadcasts)

    free = {n for n in layout.latents if terms[n].dim() <= -layout.sample_dim}
    sites = _sites_of({name: traced[name] for name in free}, num_samples, layout, broadcasts)
    coupled = [name for name in layout.latents if name not in free]
    hidden = [name for name, site in traced.items() if not site["is_observed"] and name not in free]
    log_joint = summed_out(name for name in traced if name not in free)
    if coupled:
        log_prior = summed_out(hidden)
        first = sites["+".join(coupled)] = _joint_site(coupled, traced, log_prior)
        log_joint = log_joint - first.log_prob
    observed = list(layout.observed)
    sites["+".join(observed)] = _joint_site(observed, traced, log_joint)
    return sites


def _joint_site(names: list[str], traced: Mapping[str, Any], log_prob: Tensor) -> Site:
    first = traced[names[0]]
    return Site("+".join(names), first["is_observed"], first["value"], None, log_prob, None)


def _sum_out(trace: Any, chosen: Mapping[str, tuple[Any, Tensor]]) -> Tensor:
    """log of the sum over enumerated values of the product of some sites' densities, in Pyro's layout."""
    terms_by_plates: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
    kept: set[str] = set()
    summed: set[str] = set()
    for site, log_prob in chosen.values():
        term = packed.pack(log_prob.clone(), site["infer"]["_dim_to_symbol"])
        # Packed tensors drop dimensions of size 1.
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.size > 1]
        symbols = {frame: trace.plate_to_symbol[frame.name] for frame in frames}
        kept |= {symbols[frame] for frame in frames if frame.dim == -1 or frame.name == SAMPLES_PLATE}
        terms_by_plates.setdefault(frozenset(symbols.values()), []).append(term)
        if site["infer"].get("_enumerate_dim") is not None:
            summed.add(site["infer"]["_enumerate_symbol"])
    # Pyro's contraction: sums over values inside products over inner plates, in a good order.
    joint = contract_to_tensor(terms_by_plates, summed, target_ordinal=frozenset(kept))
    return torch.atleast_1d(packed.unpack(joint, trace.symbol_to_dim))


def _by_row(terms: Tensor, num_samples: int, layout: Layout, broadcasts: bool) -> Tensor:
    """Sum a site's terms, given in Pyro's batch layout, over all but samples and rows: [S,B]."""
    if not broadcasts:
        return terms.reshape(-1, num_samples, terms.shape[-1] // num_samples).sum(0)
    missing = -layout.sample_dim - terms.dim()
    terms = terms.reshape((1,) * missing + terms.shape)
    if terms.dim() > 2:
        terms = terms.flatten(1, -2).sum(1)
    return terms.expand(num_samples, -1)


def _canonical(
    value: Tensor, num_samples: int, layout: Layout, event_dim: int, *, broadcasts: bool
) -> Tensor:
    """A value in Pyro's layout with every plate dimension present: [S, *inner plates, B, *event]."""
    batch_dim = -layout.sample_dim
    if broadcasts:
        missing = batch_dim - (value.dim() - event_dim)
        value = value.reshape((1,) * missing + value.shape)
        return value.expand(num_samples, *value.shape[1:])
    row_dim = value.dim() - 1 - event_dim
    value = value.unflatten(row_dim, (num_samples, -1)).movedim(row_dim, 0)
    missing = batch_dim - (value.dim() - event_dim)
    return value.reshape(value.shape[:1] + (1,) * missing + value.shape[1:])


def _flatten_samples(value: Tensor, event_dim: int) -> Tensor:
    """From [S, *inner plates, B, *event] to [*inner plates, S*B, *event]."""
    row_dim = value.dim() - 1 - event_dim
    return value.movedim(0, row_dim - 1).flatten(row_dim - 1, row_dim)


def _analytic_kl(q: Site, p: Site) -> Tensor | None:
    """KL(q || p) in Pyro's batch layout where torch or Pyro registers a closed form."""
    if q.mask is not None or p.mask is not None:
        return None  # masks act on the sampled terms, site by site
    if family_name(q.distribution) == "Delta":
        return None  # its registered KL leaves out the log density that it carries
    try:
        kl: Tensor = kl_divergence(q.distribution, p.distribution)
    except NotImplementedError:
        return None
    return kl


def _site_mean(site: Site, num_samples: int, layout: Layout, broadcasts: bool) -> Tensor | None:
    try:
        mean: Tensor = site.distribution.mean
    except NotImplementedError:
        return None
    if bool(mean.isnan().any()):  # families without a mean, such as Cauchy and Categorical
        return None
    event_dim = len(site.distribution.event_shape)
    return _canonical(mean, num_samples, layout, event_dim, broadcasts=broadcasts)


def _stacked_sum(terms: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(terms).sum(0) if terms else torch.zeros_like(like)


def _plate_scale(trace: Any) -> float:
    frames = (f for _, site in sample_sites(trace) for f in site["cond_indep_stack"] if f.dim == -1)
    frame = next(frames)
    return 1.0 if frame.full_size is None else float(frame.full_size / frame.size)


def _recorded(program: Program, traces: list[Any]) -> Program:
    def run(*arguments: Any, **keywords: Any) -> Any:
        with poutine.trace() as recorder:
            result = program(*arguments, **keywords)
        traces.append(recorder.trace)
        return result

    return run


def family_name(distribution: Any) -> str:
    """The innermost distribution's class name, for messages."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__
