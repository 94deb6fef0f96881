"""Bounds of log p(x) from both sides, on rows that the model itself has made.

Rows drawn from the model come with an exact draw of their posterior, the latents that made them. Annealing
forwards errs low, backwards from those latents high: between the two lies log p(x). How wide the gap is says
how far annealing with these settings can be trusted on such a model, and so on data that are like its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.block_sizes import counts
from pyrovae.checks import check_count
from pyrovae.evidence.annealing import AnnealedImportanceSampling
from pyrovae.evidence.checked_data import checked_data
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.results import RowWise
from pyrovae.evidence.simulated_data import AsX, simulated
from pyrovae.evidence.weights import Tally, estimates
from pyrovae.pair.layout import pyro_layout
from pyrovae.pair.row_keys import RowKeys
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE


@dataclass(frozen=True, repr=False)
class SimulatedBounds(RowWise):
    """What `simulated_bounds` gives: `lower` and `upper` of log p(x) for each simulated row `x`, in nats.

    In expectation `lower <= log p(x) <= upper`; a single row may fall out by chance. `gap` is the mean of
    upper - lower with its standard error over the rows: the bias of either bound is no larger.

    Example:
        >>> bounds = SimulatedBounds(torch.tensor([-3.0, -2.0]), torch.tensor([-2.0, -2.0]), torch.zeros(2, 1), 4)
        >>> bounds.gap
        (0.5, 0.5)

    """

    lower: Tensor
    upper: Tensor
    x: Tensor
    num_samples: int

    columns: ClassVar[tuple[str, ...]] = ("lower", "upper")

    @property
    def gap(self) -> tuple[float, float]:
        """Mean of upper - lower over the rows, and its standard error (NaN for one row)."""
        difference = self.upper - self.lower
        error = difference.std() / len(self) ** 0.5 if len(self) > 1 else torch.tensor(float("nan"))
        return float(difference.mean()), float(error)

    def __str__(self) -> str:
        gap, error = self.gap
        return (
            f"log p(x) of {len(self)} simulated rows between {self.lower.mean():.3f} and {self.upper.mean():.3f} nats "
            f"per row, gap {gap:.3f} ± {error:.3f} ({self.num_samples} chains each way)"
        )


def simulated_bounds(
    vae: VAE,
    num_rows: int,
    *context: object,
    num_samples: int = 16,
    method: AnnealedImportanceSampling | None = None,
    memory_budget: int = 2**31,
    as_x: AsX | None = None,
    seed: int | None = None,
) -> SimulatedBounds:
    """Sandwich log p(x) of rows simulated from the model between annealing forwards and backwards.

    Bidirectional Monte Carlo: Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional
    Monte Carlo" (2015), https://arxiv.org/abs/1511.02543. lower = log mean_s w_s of chains from the start;
    upper = -log mean_s 1/w_s of chains run backwards from the latents that made the row, whose mean is 1 / p(x).

    Args:
        vae: a pair that has seen data.
        num_rows: rows to simulate.
        context: what the pair takes beside `x`, for these rows.
        num_samples: chains each way. The backward ones of a row all begin at the same latents.
        method: temperatures, moves and start; None takes `AnnealedImportanceSampling()`.
        memory_budget: as for `log_marginal`.
        as_x: as for `calibrate`: makes `x` from the observations by site, where it is not what the one observed site
            observes.
        seed: draws are the same for the same seed; None takes one from torch's random state.

    Raises:
        ValueError: as `AnnealedImportanceSampling`; an `x` from which the model does not observe what was
            simulated (see `as_x`).

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> model, guide = pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder)
        >>> vae = pv.VAE(model, guide, example=torch.zeros(5, 64))
        >>> annealed = pv.AnnealedImportanceSampling(num_temperatures=20, num_leapfrog_steps=2)
        >>> bounds = pv.simulated_bounds(vae, 10, num_samples=2, method=annealed, seed=0)
        >>> len(bounds), bounds.x.shape
        (10, torch.Size([10, 64]))

    """
    check_count("num_rows", num_rows)
    check_count("num_samples", num_samples)
    method = method or AnnealedImportanceSampling()
    seeds = seeds_from(seed)
    with fixed_seed(next(seeds), vae.device):
        latents, data = simulated(vae, num_rows, context, as_x, "simulated_bounds")
    data = checked_data(vae, data)
    path = method.path(vae, data, num_samples, Limits(memory_budget))
    given = {
        name: pyro_layout(latents[name].unsqueeze(0), site, vae.layout.sample_dim)
        for name, site in vae.layout.latents.items()
    }
    exact = path.space.flatten(given)
    lower, upper, keys = [], [], RowKeys(data, next(seeds))
    for first, batch in data.in_blocks(vae.device):
        draws = keys.of(slice(first, first + len(batch)), vae.device)
        drawn = next(draws)
        with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
            steps = method.step_sizes(path, batch, drawn.keys)
        forwards, backwards = Tally(num_samples, num_samples), Tally(num_samples, num_samples)
        here = exact[:, first : first + len(batch)]
        for count in counts(num_samples, path.at_once):
            drawn, other = next(draws), next(draws)
            with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
                start = path.draw(batch, count, drawn.keys)
                forwards.add(method.forward(path, batch, start, steps, drawn.keys))
                ends = here.expand(count, -1, -1)
                backwards.add(-method.backward(path, batch, ends, steps, other.keys))
        lower.append(estimates([forwards]).log_marginal.cpu())
        upper.append(-estimates([backwards]).log_marginal.cpu())
    return SimulatedBounds(
        torch.cat(lower), torch.cat(upper), data.take(slice(None), torch.device("cpu")).x, num_samples
    )
