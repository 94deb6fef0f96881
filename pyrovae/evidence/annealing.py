"""Annealed importance sampling: from draws of the prior or the guide to the posterior, by Hamiltonian moves.

    w = prod_t [p(x, z_t) / r(z_t)]^(beta_t+1 - beta_t),      beta from 0 to 1,  z_0 ~ r

where z_t moves within r^(1 - beta_t) p(x, z)^beta_t. Its mean is p(x) however good or bad the moves are, so that
log w errs low; run backwards from an exact draw of the posterior, the mean of 1 / w is 1 / p(x), and -log errs
high. Moves take place in unconstrained coordinates (see `pyrovae.evidence.unconstrained`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import ROWS_AT_ONCE, counts, draws_at_once
from pyrovae.checks import check_count
from pyrovae.data import Batch, Rows
from pyrovae.evidence.annealing_path import MoveNoise, Path, Point, Score, Way
from pyrovae.evidence.checked_data import refuse_without_density
from pyrovae.evidence.importance import (
    PROBE_ROWS,
    Weigh,
    bytes_of_weights,
    measured,
    refuse_auxiliary_sites,
)
from pyrovae.evidence.memory import Limits, Pieces
from pyrovae.evidence.unconstrained import Unconstrained, bijections_of
from pyrovae.pair.row_keys import Draws, mixed
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.traced.repeated import Repeated
from pyrovae.vae import VAE

# Chains that find each row's step sizes, and how fast they do.
PILOT_CHAINS = 16
PILOT_MOVES = 20
GAIN = 0.5
ACCEPTANCE = 0.65
# Positions, momenta, gradients and densities of a chain that moves, for each number of its latents.
NUMBERS_OF_A_MOVE = 16
# Steps differ by chain and move, for orbits that close must not keep chains from mixing.
JITTER = 0.2


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Annealed importance sampling (AIS) with Hamiltonian Monte Carlo moves, a method of `log_marginal`.

    Neal, "Annealed Importance Sampling" (2001), https://arxiv.org/abs/physics/9803008; for decoder-based models Wu,
    Burda, Salakhutdinov, Grosse, "On the Quantitative Analysis of Decoder-Based Generative Models" (2017),
    https://arxiv.org/abs/1611.04273, whose sigmoid schedule of temperatures is used. Each of the `num_samples` S is a
    chain with one weight. A chain costs `num_temperatures` x `num_leapfrog_steps` gradients of the decoder, and the
    pilot chains as much as 16 to 18 chains more, so S is chosen small, 10 to 100; more temperatures tell more than
    more chains.

    Step sizes, one for each row and temperature, are found by pilot chains of their own, which aim at accepting
    65% of the moves and are then thrown away. The chains that count take these as given, whatever they meet: so
    each weight stays unbiased for p(x), which steps that follow the chain's own history would not leave it.

    Args:
        num_temperatures: steps from beta = 0 to 1; with 1, importance sampling from the start.
        num_leapfrog_steps: of one move.
        from_guide: start at the guide's draws; else at the prior's.

    Raises:
        ValueError: counts below 1. When used: latents that are discrete and not summed out, or without a map
            to real numbers; a model whose latents are all summed out; a guide with auxiliary sites, or
            without a density, as the start.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> annealed = pv.AnnealedImportanceSampling(num_temperatures=20, num_leapfrog_steps=2)
        >>> len(pv.log_marginal(vae, torch.zeros(5, 64), num_samples=4, method=annealed))
        5

    """

    num_temperatures: int = 500
    num_leapfrog_steps: int = 10
    from_guide: bool = False

    def __post_init__(self) -> None:
        check_count("num_temperatures", self.num_temperatures)
        check_count("num_leapfrog_steps", self.num_leapfrog_steps)

    def strata(self, num_samples: int) -> tuple[int, ...]:
        """All chains are alike."""
        return (num_samples,)

    def temperatures(self) -> list[float]:
        """beta from 0 to 1, closest together at both ends, where the distributions change most."""
        T = self.num_temperatures
        raw = torch.sigmoid(torch.linspace(-4, 4, T + 1, dtype=torch.float64))
        return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()

    def weigher(self, vae: VAE, data: Rows, num_samples: int, limits: Limits) -> Weigh:
        """Weights of chains."""
        path = self.path(vae, data, num_samples, limits)

        def weigh(batch: Batch, draws: Iterator[Draws]) -> Iterator[tuple[int, Tensor]]:
            drawn = next(draws)
            with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
                steps = self.step_sizes(path, batch, drawn.keys)
            for count in counts(num_samples, path.at_once):
                drawn = next(draws)
                with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
                    start = path.draw(batch, count, drawn.keys)
                    log_weights = self.forward(path, batch, start, steps, drawn.keys)
                yield 0, log_weights

        return weigh

    def path(self, vae: VAE, data: Rows, num_samples: int, limits: Limits) -> Path:
        """Check that the latents can be moved, and measure what scoring them takes."""
        _refuse_discrete(vae, data)
        space = Unconstrained(vae.layout, bijections_of(vae, data))
        few = data.take(slice(0, PROBE_ROWS), vae.device)
        if self.from_guide:
            refuse_without_density(vae)
            refuse_auxiliary_sites(
                vae,
                few,
                "other draws than its own, which annealing from it needs, is unknown. Start at the prior, "
                "from_guide=False.",
            )
        score = Score(vae, space, self.from_guide)
        path = Path(vae, space, self.from_guide, Pieces(PROBE_ROWS, 2**30), 1, score)

        def run(num_samples: int) -> object:
            u = path.draw(few, num_samples, torch.arange(len(few), device=vae.device))
            return path.at(few, u)

        footprint = measured(vae, run, few)
        numbers = vae.layout.latent_numbers
        at_once = draws_at_once(numbers * NUMBERS_OF_A_MOVE)
        num_rows, count = min(ROWS_AT_ONCE, len(data)), max(PILOT_CHAINS, min(at_once, num_samples))
        # Positions, momenta and gradients, before and after a move; step sizes of every temperature.
        taken = num_rows * (count * numbers * 8 * 10 + self.num_temperatures * 8)
        taken += bytes_of_weights(num_rows, count, num_samples)
        pieces = limits.pieces(footprint, taken, num_rows, vae.device)
        calls = num_samples * len(data) * self.num_temperatures * self.num_leapfrog_steps
        repeated = Repeated(vae, score, calls // (pieces.samples * pieces.rows), limits.compile)
        return Path(vae, space, self.from_guide, pieces, at_once, repeated)

    def step_sizes(self, path: Way, batch: Batch, keys: Tensor) -> Tensor:
        """Step sizes by temperature and row, [T,B], from pilot chains that then are forgotten."""
        u = path.draw(batch, PILOT_CHAINS, keys)
        noise = MoveNoise(mixed(keys), u)
        point = path.at(batch, u)
        log_step = torch.full(u.shape[1:2], math.log(0.5), dtype=torch.float64, device=u.device)
        unit = u.std(0, keepdim=True)
        log_step = log_step + unit.where(unit.isfinite() & (unit > 0), 1.0).log().mean((0, 2))
        betas = self.temperatures()
        found = torch.empty(len(betas), u.shape[1], dtype=torch.float64, device=u.device)
        for place, beta in enumerate(betas[:-1]):
            for _ in range(PILOT_MOVES if place == 0 else 1):
                point, accepted = self._move(path, batch, point, beta, log_step.exp(), noise)
                log_step = log_step + GAIN * (accepted.mean(0) - ACCEPTANCE)
            found[place] = log_step.exp()
        return found

    def forward(self, path: Way, batch: Batch, u: Tensor, steps: Tensor, keys: Tensor) -> Tensor:
        """log w of chains from the start, [S,B]."""
        return self.chains(path, batch, u, steps, keys)[0]

    def chains(
        self, path: Way, batch: Batch, u: Tensor, steps: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """log w of chains from the start, [S,B], and where they have come to, [S,B,d]."""
        return self._run(path, batch, u, steps, keys, backwards=False)

    def backward(self, path: Way, batch: Batch, u: Tensor, steps: Tensor, keys: Tensor) -> Tensor:
        """log w of the same chains run from draws of the posterior back to the start, [S,B]."""
        return self._run(path, batch, u, steps, keys, backwards=True)[0]

    def _run(
        self, path: Way, batch: Batch, u: Tensor, steps: Tensor, keys: Tensor, *, backwards: bool
    ) -> tuple[Tensor, Tensor]:
        betas, T = self.temperatures(), self.num_temperatures
        point, noise = path.at(batch, u), MoveNoise(mixed(keys), u)
        log_weights = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        for t in range(T, 0, -1) if backwards else range(1, T + 1):
            log_weights += (betas[t] - betas[t - 1]) * point.log_ratio
            # The move at the other end of this step; none at beta = 0, nor at 1.
            place = t - 1 if backwards else t
            if 0 < place < T:
                point, _ = self._move(path, batch, point, betas[place], steps[place], noise)
        return log_weights, point.u

    def _move(
        self, path: Way, batch: Batch, point: Point, beta: float, step: Tensor, noise: MoveNoise
    ) -> tuple[Point, Tensor]:
        """One Hamiltonian move within a temperature: where chains are afterwards, and their acceptance [S,B]."""
        momentum, jitter, chance = next(noise)
        jitter = 1 + JITTER * (2 * jitter - 1)
        size = (step * jitter).unsqueeze(-1).to(point.u.dtype)
        energy = point.log_target(beta) - _kinetic(momentum)
        new = point
        for _ in range(self.num_leapfrog_steps):
            momentum = momentum + 0.5 * size * new.gradient(beta)
            new = path.at(batch, new.u + size * momentum)
            momentum = momentum + 0.5 * size * new.gradient(beta)
        gain = new.log_target(beta) - _kinetic(momentum) - energy
        accepted = gain.exp().clamp(max=1.0).nan_to_num(0.0)
        taken = chance < accepted
        return new.where(taken, point), accepted


def _refuse_discrete(vae: VAE, data: Rows) -> None:
    if not vae.layout.latents:
        raise ValueError(
            "there is nothing to anneal: the latents of this model are all summed out, and each weight of "
            "ImportanceSampling() is p(x) itself."
        )
    with vae.evaluating(), fixed_seed(0, vae.device):
        sites = sites_of(vae.model, data.take(slice(0, 1), vae.device))
    for name in vae.layout.latents:
        if sites[name].discrete:
            raise ValueError(
                f"the latent '{name}' is discrete ({sites[name].family}): annealed importance sampling moves "
                "latents along gradients. Have it summed out with infer={'enumerate': 'parallel'} in the model, or "
                "use ImportanceSampling()."
            )


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * (momentum.double() ** 2).sum(-1)
