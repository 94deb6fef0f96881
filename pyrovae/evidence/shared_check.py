"""How near q(theta) is to the posterior of latents that rows share: importance weights of whole data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.evidence.checked_data import checked_data, refuse_without_density
from pyrovae.evidence.escalation import EscalatingSampling
from pyrovae.evidence.memory import Limits
from pyrovae.evidence.predictive import first_stage, log_density_given
from pyrovae.evidence.psis import good_k, pareto_k, smoothed, unknown_k
from pyrovae.evidence.shared_draws import SharedDraws
from pyrovae.evidence.weights import Tally, estimates
from pyrovae.pair.row_keys import RowKeys
from pyrovae.pair.shared import for_users
from pyrovae.progress import Bar
from pyrovae.random_state import seeds_from
from pyrovae.shown import Part, Shown, text_of
from pyrovae.vae import VAE

# Bytes that densities of a block of rows may take.
MEMORY = 2**31
# Beyond which a mean, in standard deviations, or a scale, in shares, is said to be off.
MEAN_OFF, SCALE_OFF = 0.25, 0.2
NUMBERS_TO_PRINT = 20


@dataclass(frozen=True, repr=False)
class SharedCheck(Shown):
    """What `shared_check` gives of R weighted draws of q(theta); prints as a page.

    `table`: one row a number of theta, `latent, entry, mean, sd` of the draws, `posterior_mean, posterior_sd` of the
    weighted draws, `off` (by how many of the latter's standard deviations q's mean is too high) and `scale_ratio` (q's
    standard deviation over it).
    `khat`, `ess`: Pareto k and effective sample size of the weights. `evidence`, `std_error`: log p(x) of all rows
    together, in nats, and its error.
    """

    table: pd.DataFrame
    khat: float
    ess: float
    evidence: float
    std_error: float
    num_samples: int
    row_samples: int

    @property
    def good_k(self) -> float:
        """The Pareto k below which nothing speaks against the weights: min(1 - 1 / log10 R, 0.7)."""
        return good_k(self.num_samples)

    @property
    def verdict(self) -> Literal["good", "off", "poor", "unknown"]:
        """What the weights say of q(theta).

        "poor": their Pareto k is not good, so that q(theta) misses mass of the posterior, and the weighted draws do not
        show all of what. "off": they can be trusted and have other means (by more than 0.25 standard deviations) or
        scales (by more than a fifth). "unknown": too few draws to fit a tail.
        """
        if bool(unknown_k(torch.tensor(self.khat), torch.tensor(self.ess), self.num_samples)):
            return "unknown"
        if not self.khat < self.good_k:
            return "poor"
        off = self.table["off"].abs() > MEAN_OFF
        return "off" if bool((off | ((self.table["scale_ratio"] - 1).abs() > SCALE_OFF)).any()) else "good"

    def sections(self) -> list[list[Part]]:
        """Verdict, weights, the numbers that are farthest off."""
        words = {
            "good": "nothing against q(theta)",
            "off": "q(theta) is off, and its weighted draws are nearer to the posterior",
            "poor": "q(theta) misses mass of the posterior, and predictive densities are those of q(theta)",
            "unknown": "too few draws to say",
        }
        names = ", ".join(dict.fromkeys(self.table["latent"]))
        far = self.table["off"].abs() + np.log(self.table["scale_ratio"]).abs()
        shown = self.table.loc[far.sort_values(ascending=False).index[:NUMBERS_TO_PRINT]]
        found: list[list[Part]] = [
            [
                f"{names}: {words[self.verdict]} ({self.num_samples} draws, {self.row_samples} of each row at each; "
                f"Pareto k {self.khat:.2f}, good below {self.good_k:.2f}; effective sample size {self.ess:.0f})",
                f"evidence of these rows {self.evidence:.3f} ± {self.std_error:.3f} nats",
            ],
            [shown.reset_index(drop=True)],
        ]
        if self.verdict in ("off", "poor"):
            found.append(
                [
                    "What to try: more steps at a smaller rate, objectives.ELBO(8); AutoGuide(model, "
                    "shared_family=AutoMultivariateNormal) where latents above the rows depend on each other, "
                    "reads_shared=True where those of rows depend on them."
                ]
            )
        return found

    def __str__(self) -> str:
        return text_of(self.sections(), ".3f")


def shared_check(
    vae: VAE,
    x: object,
    *context: object,
    num_samples: int = 400,
    row_samples: int = 50,
    seed: int | None = None,
    progress: bool = False,
) -> SharedCheck:
    """See how far q(theta), the guide of latents that rows share, is from their posterior given these rows.

        w_r = p(theta_r) prod_n p(x_n|theta_r) / q(theta_r),  theta_r ~ q(theta),  r = 1, ..., R

    p(x_n|theta) is the mean of K weights of the row, a tenth of them from the prior. At each theta_r these come from
    the same noise, so that it largely cancels. What is left moves the weighted means by about a standard deviation over
    sqrt(K) where rows tell as much of their own latents as these do of theta, more where the rows' guide is poor, and
    nothing where rows have no latents: raise K until the figures stay.

    `log_marginal`, `az.loo` and all else that averages over theta are of q(theta) as it is; this is what tells of it.

    Args:
        vae: with shared latents.
        x: [N, ...], all rows that it was trained on: the posterior is given these.
        context: what the pair takes beside `x`.
        num_samples: R.
        row_samples: K.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Raises:
        ValueError, TypeError: data that do not fit the pair; counts below 1, or less than 2 draws; no latents are
            shared; points in place of q(theta); a guide without a density; weights that are all zero or not finite.

    Example:
        >>> import pyro, pyro.distributions as dist, pyrovae as pv
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("mean", dist.Normal(0.0, 0.5))
        >>> found = pv.shared_check(pv.VAE(model, guide), torch.full((3,), 0.4), num_samples=2000, seed=0)
        >>> found.verdict, found.table["posterior_mean"].round(1).tolist(), found.table["scale_ratio"].round(1).tolist()
        ('off', [0.3], [1.0])

    """
    check_count("num_samples", num_samples)
    check_count("row_samples", row_samples)
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}: weights of draws are compared, 2 at least.")
    data = checked_data(vae, x, *context, covers_shared=True)
    vae.refuse_none_shared()
    if vae.layout.shared_without_density:
        raise ValueError(vae.layout.shared_without_density)
    refuse_without_density(vae)
    seeds = seeds_from(seed)
    shared = SharedDraws(vae, data, num_samples, next(seeds))
    if not shared.vae.layout.hidden:
        row_samples = 1  # p(x|theta) itself
    limits = Limits(MEMORY, repeats=num_samples)
    method, _ = first_stage(shared.vae, data, EscalatingSampling(), row_samples, limits)
    weigh = method.weigher(shared.vae, data, row_samples, limits)
    keys, sums = RowKeys(data, next(seeds)), torch.zeros(num_samples, dtype=torch.float64)
    with Bar("shared latents", " rows", shown=progress, total=len(data) * num_samples) as bar:
        for first, batch in data.in_blocks(vae.device):
            for r, held in enumerate(shared):
                draws = keys.of(slice(first, first + len(batch)), held.device)
                sums[r] += float(log_density_given(weigh, batch, draws).sum())
                bar.update(len(batch))
    return _weighed(vae, shared, sums, row_samples)


def _weighed(vae: VAE, shared: SharedDraws, log_densities: Tensor, row_samples: int) -> SharedCheck:
    """From log p(x|theta_r), [R]."""
    rates = torch.stack([draw.rate for draw in shared.draws]).double().cpu()
    log_weights = (log_densities - rates)[:, None]
    if not bool(log_weights.logsumexp(0).isfinite()):
        raise ValueError(
            "the weights of the draws of q(theta) are all zero or not finite: the model gives these rows no density at "
            "them, or its parameters are not finite. Check them with elbo(), or leave rows out."
        )
    tally = Tally(len(shared), len(shared))
    tally.add(log_weights)
    found, weights = estimates([tally]), smoothed(log_weights).softmax(0)
    lines = []
    for name in shared.draws[0].values:
        drawn = torch.stack([draw.values[name] for draw in shared.draws])
        values = for_users(drawn, vae.layout, name).double().cpu()
        flat = values.reshape(len(values), -1)
        mean, sd = flat.mean(0), flat.std(0)
        weighted = (weights * flat).sum(0)
        spread = (weights * (flat - weighted) ** 2).sum(0).sqrt()
        off, scale = (mean - weighted) / spread, sd / spread
        figures = torch.stack([mean, sd, weighted, spread, off, scale], 1).tolist()
        entries = [",".join(map(str, index)) for index in np.ndindex(*values.shape[1:])]
        lines += [(name, entry, *figure) for entry, figure in zip(entries, figures, strict=True)]
    columns = ["latent", "entry", "mean", "sd", "posterior_mean", "posterior_sd", "off", "scale_ratio"]
    return SharedCheck(
        pd.DataFrame(lines, columns=columns),
        float(pareto_k(log_weights)[0]),
        float(found.ess[0]),
        float(found.log_marginal[0]),
        float(found.std_error[0]),
        len(shared),
        row_samples,
    )
