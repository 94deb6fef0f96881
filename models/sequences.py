"""Distributions over ragged sequences: one event is a whole row, padded at its end to T steps.

What lies beyond a row's length is no part of the event: densities do not read it, and draws hold 0 there.
So one latent site holds a whole sequence and its density comes in one pass over all steps; only drawing
from a chain goes step by step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar, Self, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.nn import AutoregressiveGRU, step_mask


class SequenceDistribution(dist.TorchDistribution):
    """A distribution over rows of T steps: log p(x) = sum over a row's real steps of each step's log density.

    For those who write one: a subclass gives the log densities of all steps at once and a way to draw. By its
    `real_steps` it is `Ragged` (`pyrovae.pair.sites`): padding counts nowhere.

    Args:
        batch_shape: of the parameters.
        step_shape: event shape of one step.
        step_support: where a step's values lie.
        num_steps: T.
        lengths: each row's number of real steps, [...]; None where all are full.

    Raises:
        ValueError: a length below 1 or beyond T, with its row (while validation is on).

    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        batch_shape: torch.Size,
        step_shape: torch.Size,
        step_support: constraints.Constraint | None,
        num_steps: int,
        lengths: Tensor | None,
    ) -> None:
        self.real_steps = None if lengths is None else step_mask(lengths, num_steps)
        self.step_support = cast(constraints.Constraint, step_support)  # torch's types allow None
        if lengths is not None:
            batch_shape = torch.broadcast_shapes(batch_shape, lengths.shape)
        super().__init__(batch_shape, torch.Size([num_steps, *step_shape]))

    def step_log_probs(self, value: Tensor) -> Tensor:
        """Log density of each step given those before it, [..., T]; padding holds values of real steps."""
        raise NotImplementedError

    def draw(self, shape: torch.Size) -> Tensor:
        """Values [*shape, T, *step], padding included; the shape ends in the batch shape."""
        raise NotImplementedError

    @property
    def support(self) -> constraints.Constraint:
        """Sequences whose real steps lie in the steps' support."""
        if self.real_steps is None:
            return constraints.independent(self.step_support, 1)
        return _RealSteps(self.step_support, self.real_steps)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats of each row, [...]."""
        if self._validate_args:
            self._validate_sample(value)
        if self.real_steps is None:
            total = self.step_log_probs(value).sum(-1)
        else:
            # Padding takes the first step's value, which lies in the support and is finite: so does its gradient.
            first = value.narrow(value.dim() - len(self.event_shape), 0, 1)
            by_step = self.step_log_probs(value.where(self._over_values(self.real_steps), first))
            total = by_step.where(self.real_steps, 0.0).sum(-1)
        expanded: Tensor = total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))
        return expanded

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, [*sample_shape, *batch, T, *step], with gradients."""
        if not self.has_rsample:
            raise NotImplementedError(
                f"the steps of this {type(self).__name__} have no reparameterized draws."
            )
        return self._draw_real(sample_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, [*sample_shape, *batch, T, *step], without gradients."""
        with torch.no_grad():
            return self._draw_real(sample_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Self | None = None) -> Self:
        """The same distribution for a larger batch."""
        larger = copy.copy(self)
        larger._batch_shape = torch.broadcast_shapes(torch.Size(batch_shape), self.batch_shape)
        return larger

    def _draw_real(self, sample_shape: Sequence[int]) -> Tensor:
        return self._without_padding(self.draw(torch.Size([*sample_shape, *self.batch_shape])))

    def _without_padding(self, value: Tensor) -> Tensor:
        return value if self.real_steps is None else value.where(self._over_values(self.real_steps), 0)

    def _over_values(self, mask: Tensor) -> Tensor:
        return mask.reshape(*mask.shape, *[1] * (len(self.event_shape) - 1))


class PaddedSequence(SequenceDistribution):
    """Independent steps: p(x) = prod_t p_t(x_t) over a row's real steps.

    Steps that are absent (NaN), in whole or in part, are integrated out.

    Args:
        steps: a distribution over one step, whose last batch dimension is the steps: batch [..., T].
        lengths: each row's number of real steps, [...]; None where all are full.

    Raises:
        ValueError: `steps` without a batch dimension; a length below 1 or beyond T, with its row.

    Example:
        >>> steps = dist.Normal(torch.zeros(5, 7, 2), 1.0).to_event(1)
        >>> sequence = PaddedSequence(steps, torch.tensor([7, 1, 2, 3, 4]))
        >>> sequence.batch_shape, sequence.event_shape
        (torch.Size([5]), torch.Size([7, 2]))

    """

    def __init__(self, steps: dist.TorchDistribution, lengths: Tensor | None = None) -> None:
        if not steps.batch_shape:
            raise ValueError("the distribution of the steps has no batch dimension: expected batch [..., T].")
        self.steps = steps
        self.present: Tensor | None = None
        self.emission: Callable[..., dist.TorchDistribution] | None = None
        self.states: Tensor | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.has_rsample = steps.has_rsample
        *batch_shape, num_steps = steps.batch_shape
        super().__init__(torch.Size(batch_shape), steps.event_shape, steps.support, num_steps, lengths)

    @classmethod
    def emitted(
        cls,
        emission: Callable[..., dist.TorchDistribution],
        states: Tensor,
        inputs: Sequence[Tensor] = (),
        lengths: Tensor | None = None,
    ) -> Self:
        """What a chain emits: p(x|z) = prod_t p(x_t | z_t, inputs_t), of which single steps can be asked for too.

        Sequential Monte Carlo, `pyrovae.objectives.FIVO` and `pyrovae.forecast` go step by step and need that.

        Args:
            emission: from z_t [..., K] and the inputs of step t, [..., features], to the distribution of x_t: a
                conditional distribution.
            states: the chain as it was sampled, [..., T, K].
            inputs: what the emissions take beside the state, each [..., T, features].
            lengths: each row's number of real steps, [...]; None where all are full.

        Raises:
            ValueError: inputs of another number of steps; as `PaddedSequence`.

        Example:
            >>> states = torch.zeros(5, 7, 2)
            >>> sequence = PaddedSequence.emitted(lambda z: dist.Poisson(z.exp()).to_event(1), states)
            >>> sequence.batch_shape, sequence.event_shape
            (torch.Size([5]), torch.Size([7, 2]))

        """
        _check_inputs(inputs, states.shape[-2])
        sequence = cls(emission(states, *inputs), lengths)
        sequence.emission, sequence.states, sequence.inputs = emission, states, tuple(inputs)
        return sequence

    @property
    def mean(self) -> Tensor:
        """Means of the steps, 0 beyond a row's length."""
        return self._without_padding(self.steps.mean).expand(self.batch_shape + self.event_shape)

    def marginal(self, steps: dist.TorchDistribution, present: Tensor) -> Self:
        """The distribution of what is `present` in a value, [..., T, *step], given that of the steps' present parts."""
        part = copy.copy(self)
        part.steps, part.present = steps, present
        return part

    def step_log_probs(self, value: Tensor) -> Tensor:
        """Log density of each step, [..., T]."""
        log_probs: Tensor = self.steps.log_prob(value)
        return log_probs

    def draw(self, shape: torch.Size) -> Tensor:
        """Values [*shape, T, *step]."""
        steps = self.steps.expand(torch.Size([*shape, self.event_shape[0]]))
        drawn: Tensor = steps.rsample() if self.has_rsample else steps.sample()
        return drawn


class MarkovSequence(SequenceDistribution):
    """A chain of vectors: p(z) = p(z_1) prod_t p(z_t | z_{t-1}, inputs_t) over a row's real steps.

    Args:
        initial: the distribution of z_1, event [K].
        transition: from z_{t-1} [..., K] and the inputs of step t, [..., features], to the distribution of
            z_t: a conditional distribution.
        num_steps: T.
        inputs: what the transitions take beside the state, each [..., T, features].
        lengths: each row's number of real steps, [...]; None where all are full.

    Raises:
        ValueError: z_1 is no vector; inputs of another number of steps; a length below 1 or beyond T, with
            its row.

    Example:
        >>> initial = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> chain = MarkovSequence(initial, lambda z: dist.Normal(0.9 * z, 0.1).to_event(1), num_steps=7)
        >>> chain.log_prob(chain.sample((3, 5))).shape
        torch.Size([3, 5])

    """

    def __init__(
        self,
        initial: dist.TorchDistribution,
        transition: Callable[..., dist.TorchDistribution],
        num_steps: int,
        inputs: Sequence[Tensor] = (),
        lengths: Tensor | None = None,
    ) -> None:
        if len(initial.event_shape) != 1:
            raise ValueError(
                f"the distribution of z_1 has event shape {tuple(initial.event_shape)}: expected a vector (K,), "
                "e.g. by .to_event(1)."
            )
        _check_inputs(inputs, num_steps)
        self.initial, self.transition, self.inputs = initial, transition, tuple(inputs)
        self.has_rsample = initial.has_rsample
        batch_shape = torch.broadcast_shapes(initial.batch_shape, *(i.shape[:-2] for i in inputs))
        super().__init__(batch_shape, initial.event_shape, initial.support, num_steps, lengths)

    def step_log_probs(self, value: Tensor) -> Tensor:
        """Log density of each step given the one before it, [..., T]."""
        first = self.initial.log_prob(value[..., 0, :])
        if value.shape[-2] == 1:  # distributions do not sum over the events of no steps
            return first.unsqueeze(-1)
        following = self.transition(value[..., :-1, :], *(values[..., 1:, :] for values in self.inputs))
        later = following.log_prob(value[..., 1:, :])
        leading = torch.broadcast_shapes(first.shape, later.shape[:-1])
        return torch.cat([first.expand(leading).unsqueeze(-1), later.expand(*leading, -1)], -1)

    def draw(self, shape: torch.Size) -> Tensor:
        """Values [*shape, T, K], step by step."""
        initial = self.initial.expand(shape)
        states = [initial.rsample() if self.has_rsample else initial.sample()]
        # Taken apart at once: the gradient of each step taken by itself would be as large as that of all.
        by_input = [values.unbind(-2) for values in self.inputs]
        for step in range(1, self.event_shape[0]):
            following = self.transition(states[-1], *(steps[step] for steps in by_input))
            states.append(following.rsample() if self.has_rsample else following.sample())
        return torch.stack(states, -2)


class CategoricalSequence(SequenceDistribution):
    """Tokens one after another: p(x|z) = prod_t p(x_t | x_1..x_{t-1}, z) over a row's real steps.

    The density takes one pass of the network over the given tokens; a draw takes T short ones.

    Args:
        network: the logits, e.g. `pyrovae.nn.AutoregressiveGRU`.
        inputs: z, [..., K].
        num_steps: T.
        lengths: each row's number of real steps, [...]; None where all are full.

    Raises:
        ValueError: a length below 1 or beyond T, with its row.

    Example:
        >>> network = AutoregressiveGRU(2, num_categories=10, hidden_size=16)
        >>> sequence = CategoricalSequence(network, torch.zeros(5, 2), num_steps=7)
        >>> sequence.log_prob(sequence.sample()).shape
        torch.Size([5])

    """

    def __init__(
        self, network: AutoregressiveGRU, inputs: Tensor, num_steps: int, lengths: Tensor | None = None
    ) -> None:
        self.network, self.inputs = network, inputs
        support = constraints.integer_interval(0, network.num_categories - 1)
        super().__init__(inputs.shape[:-1], torch.Size(), support, num_steps, lengths)

    def step_log_probs(self, value: Tensor) -> Tensor:
        """Log density of each token given those before it, [..., T]."""
        tokens = value.long()
        log_probs = self.network(tokens, self.inputs).log_softmax(-1)
        tokens = tokens.expand(log_probs.shape[:-1])
        return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """Tokens [*shape, T], step by step."""
        inputs = self.inputs.expand(*shape, -1)
        state, before = self.network.start(inputs)
        before, tokens = before.expand(*shape, 1), []
        for _ in range(self.event_shape[0]):
            logits, state = self.network.advance(before, state, inputs)
            before = dist.Categorical(logits=logits).sample()
            tokens.append(before)
        return torch.cat(tokens, -1)


def _check_inputs(inputs: Sequence[Tensor], num_steps: int) -> None:
    for values in inputs:
        if values.dim() < 2 or values.shape[-2] != num_steps:
            raise ValueError(
                f"inputs of a chain of {num_steps} steps have shape {list(values.shape)}: expected "
                f"[..., {num_steps}, features]."
            )


class _RealSteps(constraints.Constraint):
    """Every real step in the base constraint; padding may hold anything."""

    def __init__(self, base: constraints.Constraint, real_steps: Tensor) -> None:
        self.base_constraint, self.real_steps = base, real_steps
        self.is_discrete = base.is_discrete
        self.event_dim = base.event_dim + 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self.base_constraint.check(value)
        return (inside | ~self.real_steps).all(-1)
