"""Chains: log p(x) by sequential Monte Carlo against the Kalman filter, forecasts held against the future, and cost.

`PYROVAE_DATA=folder python -m benchmarks.chains` writes results/chains.md, .csv and .png.
"""

from __future__ import annotations

import statistics
import time

import pandas as pd
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae as pv
from benchmarks import data, deep_markov, report
from pyrovae.guides import AmortizedGuide, DiagonalNormal, MarkovPosterior
from pyrovae.models import LinearGaussianChain
from pyrovae.models.sequences import MarkovSequence
from pyrovae.nn import GRU, MLP

K, D, STATE, HIDDEN = 2, 3, 32, 32
TRAINING, TRAINED, EPOCHS, BATCH, RATE = 1000, 40, 60, 50, 5e-3
LENGTHS, ROWS, PARTICLES, SEED = (30, 120, 480), 12, 1000, 0
SEEN, AHEAD, HELD_OUT = 40, 10, 200
ROUNDS, COSTED, DRAWS = 5, 8, 100

LOOKAHEAD = pv.SequentialMonteCarlo(transition_share=0.3, lookahead=True)
METHODS: dict[str, pv.ImportanceSampling | pv.SequentialMonteCarlo] = {
    "importance sampling": pv.ImportanceSampling(),
    "lookahead": LOOKAHEAD,
    "lookahead, no guide": pv.SequentialMonteCarlo(transition_share=1, lookahead=True),
    "sequential": pv.SequentialMonteCarlo(transition_share=0.3),
}
PAST, FUTURE = {"past": True, "future": False}, {"past": False, "future": True}
# What the guides' networks read, and what they are trained by.
GUIDES: dict[str, tuple[dict[str, bool], pv.objectives.RowObjective]] = {
    "the past": (PAST, pv.objectives.ELBO()),
    "the past, by FIVO": (PAST, pv.objectives.FIVO(num_particles=16)),
    "the future": (FUTURE, pv.objectives.ELBO()),
}


def chain() -> LinearGaussianChain:
    """A chain that turns and forgets, held as it is."""
    torch.manual_seed(SEED)
    model = LinearGaussianChain(K, D)
    with torch.no_grad():
        model.transition_matrix.copy_(torch.tensor([[0.85, -0.4], [0.4, 0.85]]))
    return model.requires_grad_(False)


def drawn(model: LinearGaussianChain, count: int, num_steps: int, seed: int) -> Tensor:
    """Rows from the model, [count, T, D]."""
    torch.manual_seed(seed)
    initial = dist.Normal(model.initial_mean, model.initial_scale()).to_event(1)
    z = MarkovSequence(initial, model.transition, num_steps).expand([count]).sample()
    x: Tensor = model.emission(z).sample()
    return x


def trained_guide(model: LinearGaussianChain, knows: str) -> pv.VAE:
    """A guide of that chain whose steps know x_1..x_t or x_t..x_T, trained on rows of one length."""
    torch.manual_seed(SEED)
    reads, objective = GUIDES[knows]
    network = GRU(D, STATE, **reads)
    step = DiagonalNormal(MLP(K + network.out_features, (K, K), [HIDDEN]))
    vae = pv.VAE(model, AmortizedGuide(MarkovPosterior(network, step, K)))
    pv.fit(
        vae,
        drawn(model, TRAINING, TRAINED, seed=1),
        epochs=EPOCHS,
        batch_size=BATCH,
        objective=objective,
        optimizer=lambda p: torch.optim.Adam(p, lr=RATE),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS),
        seed=SEED,
        progress=False,
    )
    return vae


def errors(model: LinearGaussianChain, vae: pv.VAE, knows: str) -> pd.DataFrame:
    """Of log p(x) by row, by each method and length."""
    table = []
    for num_steps in LENGTHS:
        x = drawn(model, ROWS, num_steps, seed=2)
        exact = model.log_marginal(x)
        for name, method in METHODS.items():
            result = pv.log_marginal(vae, x, num_samples=PARTICLES, method=method, seed=SEED)
            off = (result.log_marginal - exact).double()
            table.append(
                {
                    "what": "error of log p(x)",
                    "guide knows": knows,
                    "method": name,
                    "steps": num_steps,
                    "mean absolute error, nats": float(off.abs().mean()),
                    "mean error": float(off.mean()),
                    "median stated error": float(result.std_error.median()),
                    "rows within 1.96 errors": float((off.abs() < 1.96 * result.std_error).double().mean()),
                    "verdict": result.verdict,
                }
            )
    return pd.DataFrame(table)


def picture(table: pd.DataFrame) -> Figure:
    """Errors against the number of steps, both logarithmic."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for ax, (knows, part) in zip(
        figure.subplots(1, len(GUIDES), sharey=True), table.groupby("guide knows", sort=False), strict=False
    ):
        for name, lines in part.groupby("method", sort=False):
            ax.loglog(lines["steps"], lines["mean absolute error, nats"], "o-", label=name)
        ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("steps T")
        ax.set_title(f"a guide that knows {knows}", fontsize=10)
        ax.axhline(0.3, color="grey", lw=0.8, ls=":")
    figure.axes[0].set_ylabel(f"mean absolute error, nats; {PARTICLES} draws")
    figure.axes[-1].legend(frameon=False, loc="upper left")
    return figure


def coverage(model: LinearGaussianChain, vae: pv.VAE) -> pd.DataFrame:
    """Of 90 % intervals on held-out chains of the model, with the trained guide."""
    whole = drawn(model, HELD_OUT, SEEN + AHEAD, seed=4)
    low, high = pv.forecast(vae, whole[:, :SEEN], steps=AHEAD, method=LOOKAHEAD, seed=SEED).interval(0.9)
    inside = (low <= whole[:, SEEN:]) & (whole[:, SEEN:] <= high)
    first, last = (float(inside[:, place].double().mean()) for place in (0, -1))
    line = {"what": "coverage of 90 % intervals", "method": f"forecast, {AHEAD} steps", "steps": SEEN}
    line |= {"coverage": float(inside.double().mean()), "at the first step": first, "at the last": last}
    return pd.DataFrame([line])


def cost() -> pd.DataFrame:
    """Of filtering a batch of chorales against one pass of importance sampling of as many draws, in turn."""
    torch.manual_seed(SEED)
    vae = deep_markov.deep_markov()
    x, lengths = (values[:COSTED] for values in data.jsb_chorales("test"))
    x = x[:, : int(lengths.max())]
    seconds: dict[str, list[float]] = {"importance sampling": [], "lookahead": []}
    for turn in range(ROUNDS + 1):
        for name in list(seconds)[:: 1 if turn % 2 else -1]:
            started = time.process_time()
            pv.log_marginal(
                vae, x, lengths, num_samples=DRAWS, method=METHODS[name], compile=False, seed=turn
            )
            seconds[name].append(time.process_time() - started)
    ours, other = seconds["lookahead"][1:], seconds["importance sampling"][1:]
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    line = {
        "what": "seconds of filtering with a lookahead over importance sampling",
        "method": f"{DRAWS} draws",
        "steps": x.shape[1],
    }
    line |= {"ratio, median of pairs": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return pd.DataFrame([line])


def main() -> None:
    """All of it in one table, written as it grows."""
    model, table = chain(), pd.DataFrame()
    for knows in GUIDES:
        vae = trained_guide(model, knows)
        table = pd.concat([table, errors(model, vae, knows)], ignore_index=True)
        picture(table).savefig(report.RESULTS / "chains.png", dpi=120)
        report.write("chains", "Sequential Monte Carlo on chains", table, SETTINGS, NOTE)
    for part in (coverage(model, vae), cost()):
        table = pd.concat([table, part], ignore_index=True)
        report.write("chains", "Sequential Monte Carlo on chains", table, SETTINGS, NOTE)


NOTE = (
    "Errors are against the Kalman filter, with as many draws for each method; five runs of a fifth each for all but "
    "importance sampling. Three in ten particles are proposed from the transitions, all where there is no guide. "
    "Seconds are the process's own, taken in turn."
)
SETTINGS = {
    "chain": f"linear-Gaussian, K = {K}, D = {D}, a damped turn, held as it is; the Kalman filter is exact",
    "guides": f"MarkovPosterior of a GRU ({STATE}), step DiagonalNormal MLP hidden {HIDDEN}; "
    "ELBO, or FIVO of 16 particles, "
    f"{TRAINING} rows of {TRAINED} steps, {EPOCHS} epochs, Adam {RATE:g} to 0 by a cosine, batch {BATCH}",
    "draws": PARTICLES,
    "rows": f"{ROWS} of each length; {HELD_OUT} for intervals, {SEEN} steps and {AHEAD} ahead",
    "cost": f"the deep Markov model of benchmarks.deep_markov, untrained, {COSTED} test chorales, {DRAWS} draws, "
    f"{ROUNDS} pairs, plain Pyro for both",
    "seed": SEED,
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
