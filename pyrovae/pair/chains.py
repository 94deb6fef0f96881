"""State-space models: pairs whose one latent is a chain and whose observations come step by step.

Programs score a chain in one pass over all steps. What goes from step to step, as sequential Monte Carlo does, asks
here for the densities of one step at a time: of z_t given z_{t-1} under model and guide, of x_t given z_t. A program
runs once for all of them; what is asked afterwards are the parts that its chain and its observations are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.absence import present_part
from pyrovae.pair.handlers import Message, subsampling
from pyrovae.pair.programs import Pair
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of

Part = Callable[..., TorchDistribution]


@runtime_checkable
class Chain(Protocol):
    """A distribution of chains, such as `pyrovae.models.sequences.MarkovSequence`: p(z_1) prod_t p(z_t|z_{t-1}, u_t).

    `inputs` u are [..., T, features] each; `real_steps` is [*batch, T], or None where all are.
    """

    initial: TorchDistribution
    transition: Part
    inputs: tuple[Tensor, ...]
    real_steps: Tensor | None


@runtime_checkable
class Emitted(Protocol):
    """A distribution of what a chain emits, such as `PaddedSequence.emitted`: prod_t p(x_t|z_t, u_t)."""

    emission: Part | None
    states: Tensor | None
    inputs: tuple[Tensor, ...]
    real_steps: Tensor | None


@dataclass(frozen=True, eq=False)
class StateSpace:
    """The steps of a pair on B rows, for S particles of each.

    `chain` is the model's, `posterior` the guide's (None where it is not asked for); `observed` are what the chain
    emits, with values [B, T, *event]; `absent` says that entries may be NaN, which rows then do not have.
    """

    chain: Chain
    posterior: Chain | None
    observed: Mapping[str, tuple[Emitted, Tensor]]
    num_rows: int
    num_steps: int
    absent: bool

    @property
    def real_steps(self) -> Tensor | None:
        """Which steps are no padding, [B,T]; None where all are."""
        real = self.chain.real_steps
        return None if real is None else real.expand(self.num_rows, -1)

    @property
    def lengths(self) -> Tensor:
        """Of each row, [B]."""
        real = self.real_steps
        if real is not None:
            return real.sum(-1)
        _, value = next(iter(self.observed.values()))
        return torch.full((self.num_rows,), self.num_steps, device=value.device)

    def prior(self, step: int, before: Tensor | None, num_samples: int) -> TorchDistribution:
        """p(z_t | z_{t-1}), batch [S,B]; `before` is [S,B,K], None at the first step."""
        return self._next(self.chain, step, before, num_samples)

    def proposal(self, step: int, before: Tensor | None, num_samples: int) -> TorchDistribution:
        """q(z_t | z_{t-1}, x), batch [S,B]."""
        assert self.posterior is not None
        return self._next(self.posterior, step, before, num_samples)

    def log_likelihood(self, step: int, states: Tensor) -> Tensor:
        """log p(x_t | z_t) of what is present, [S,B], for states [S,B,K]."""
        terms = []
        for emitted, value in self.observed.values():
            assert emitted.emission is not None
            distribution = emitted.emission(states, *at_step(emitted.inputs, step))
            now = value[:, step]
            if self.absent:
                inside, now = present_part(distribution, now)
                distribution = cast(TorchDistribution, inside)
            terms.append(distribution.log_prob(now))
        return torch.stack(terms).sum(0).expand(states.shape[:-1])

    def _next(self, chain: Chain, step: int, before: Tensor | None, num_samples: int) -> TorchDistribution:
        if before is None:
            return chain.initial.expand(torch.Size([num_samples, self.num_rows]))
        following = chain.transition(before, *at_step(chain.inputs, step))
        # One that does not read the state is not of its shape.
        shape = before.shape[:-1]
        return following if following.batch_shape == shape else following.expand(shape)


def at_step(inputs: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
    """The inputs of one step, [..., features] each."""
    return tuple(values[..., step, :] for values in inputs)


def state_space(pair: Pair, batch: Batch, *, with_guide: bool) -> StateSpace:
    """Run the programs once on some rows, without drawing their chains, and hand back their steps.

    Raises:
        ValueError: the pair is no chain whose steps can be asked for, with what to do.

    """
    absent, batch = batch.absent, Batch(batch.arguments)  # each step leaves out its own
    with _Undrawn():
        guide_sites = sites_of(pair.guide, batch) if with_guide else {}
        model_sites = sites_of(pair.model, batch)
    name, chain = _only_chain(pair, model_sites)
    posterior = _chain_of_guide(name, guide_sites) if with_guide else None
    observed = {}
    for site in model_sites.values():
        if site.observed:
            emitted = _emitted(site, model_sites[name])
            observed[site.name] = (emitted, _without_padding(emitted, site.value))
    num_steps = model_sites[name].value.shape[-2]
    return StateSpace(chain, posterior, observed, len(batch), num_steps, absent)


class _Undrawn(Messenger):
    """Chains are not drawn step by step: one state goes on as all of them."""

    def _pyro_sample(self, msg: Message) -> None:
        chain = msg["fn"]
        if msg["is_observed"] or subsampling(msg) or msg["value"] is not None or not isinstance(chain, Chain):
            return
        state = chain.initial.expand(chain.batch_shape).sample()
        num_steps = chain.event_shape[0]
        msg["value"] = state.unsqueeze(-2).expand(*state.shape[:-1], num_steps, state.shape[-1])


def _only_chain(pair: Pair, sites: Mapping[str, Site]) -> tuple[str, Chain]:
    latents = {name: site for name, site in sites.items() if not site.observed}
    if len(latents) != 1 or pair.layout.enumerated:
        raise ValueError(
            f"the model has the latents {sorted(latents)}: going step by step needs one latent, which is a chain "
            "(pyrovae.models.sequences.MarkovSequence), and nothing beside it. Join the chains of a row into one with "
            "states side by side, or use ImportanceSampling()."
        )
    ((name, site),) = latents.items()
    _refuse_mask(site)
    if site.inner_plates or not isinstance(site.distribution, Chain):
        raise ValueError(
            f"the latent '{name}' of the model is {site.family}, which is no chain: going step by step needs a "
            "pyrovae.models.sequences.MarkovSequence in the row plate alone. Use ImportanceSampling() otherwise."
        )
    return name, site.distribution


def _chain_of_guide(name: str, sites: Mapping[str, Site]) -> Chain:
    site = sites[name]
    if others := sorted(other for other, s in sites.items() if other != name and not s.factor):
        raise ValueError(
            f"the guide draws {others} beside the chain '{name}': its steps given these are not those given the data "
            "alone. Propose from the model's transitions, transition_share=1."
        )
    if not isinstance(site.distribution, Chain):
        raise ValueError(
            f"the guide draws '{name}' from {site.family}, which has no steps that particles could be proposed from: "
            "give it a pyrovae.guides.MarkovPosterior, or propose from the model's transitions, transition_share=1."
        )
    _refuse_mask(site)
    return site.distribution


def _emitted(site: Site, chain: Site) -> Emitted:
    _refuse_mask(site)
    if site.factor or not isinstance(site.distribution, Emitted) or site.distribution.emission is None:
        raise ValueError(
            f"the model observes '{site.name}' by {site.family}, whose steps cannot be asked for one at a time. Write "
            f"pyro.sample('{site.name}', PaddedSequence.emitted(emission, {chain.name}, inputs, lengths), obs=...), "
            "from pyrovae.models.sequences."
        )
    emitted: Emitted = site.distribution
    if emitted.states is not chain.value:
        raise ValueError(
            f"'{site.name}' is emitted by other states than the chain '{chain.name}' as it was sampled: give "
            f"PaddedSequence.emitted the chain itself, and let its emission compute what it needs of a state."
        )
    of_chain = cast(Chain, chain.distribution).real_steps
    if (emitted.real_steps is None) != (of_chain is None):
        raise ValueError(
            f"'{site.name}' and the chain '{chain.name}' have not the same lengths: give both, or neither, the rows' "
            "lengths."
        )
    return emitted


def _without_padding(emitted: Emitted, value: Tensor) -> Tensor:
    """The first step in place of padding, which may hold anything: it lies in the support."""
    if emitted.real_steps is None:
        return value
    real = emitted.real_steps.reshape(emitted.real_steps.shape + (1,) * (value.dim() - 2))
    return value.where(real, value[:, :1])


def _refuse_mask(site: Site) -> None:
    if site.mask not in (None, True):
        raise ValueError(
            f"site '{site.name}' is masked, which steps know nothing of: what a row lacks is NaN, and rows of "
            "different lengths have lengths=."
        )
