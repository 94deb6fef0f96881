"""Binary tables: two floors as published, and VAEs of four latents, whose log p(x) is known nearly exactly.

The floors are independent columns and trees of columns (Chow & Liu, "Approximating discrete probability distributions
with dependence trees", 1968). With K = 4 the integral over z is one over the unit cube by the normal's quantiles, which
scrambled Sobol points take to several digits: so estimates of log p(x) by row meet the truth on real data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor, nn
from torch.nn.functional import softplus

import pyrovae as pv
from benchmarks import data, report
from benchmarks.published.figure import RESULTS, Figure, over_seeds, write
from benchmarks.published.training import Run, done
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal
from pyrovae.nn import MLP

INDEPENDENT = {"nltcs": -9.2336, "plants": -31.266, "jester": -63.883, "accidents": -45.560, "dna": -100.386}
TREES = {"nltcs": -6.759, "plants": -16.524, "jester": -58.227, "accidents": -33.188, "dna": -87.735}
OF_FLOORS = "the literature on these sets (trees: Rahman, Kothalkar & Gogate 2014), second-hand"
K, HIDDEN = 4, [128, 128]
EPOCHS, PATIENCE, BATCH, RATE, DECAY = 200, 15, 128, 1e-3, 1e-5
SEEDS = (0,)
POINTS, SCRAMBLES = 13, 16  # powers of two of points, and how often they are scrambled anew
WEIGHTS = 1000


def table(name: str, part: str) -> Tensor:
    """Rows [N,D] of 0 and 1."""
    arrays = data.archive("binary_density.npz")
    bits = np.unpackbits(arrays[f"{name}_{part}_bits"], axis=1, count=int(arrays[f"{name}_n_vars"]))
    return torch.as_tensor(bits, dtype=torch.float32)


def independent(train: Tensor, test: Tensor) -> Tensor:
    """log p(x) of rows, [N], of columns that know nothing of each other, counts begun at one."""
    ones = (train.double().sum(0) + 1) / (len(train) + 2)
    return test.double() @ ones.log() + (1 - test.double()) @ (-ones).log1p()


def tree(train: Tensor, test: Tensor) -> Tensor:
    """log p(x) of rows, [N], of the Chow-Liu tree, counts of pairs begun at one."""
    x, D = train.double(), train.shape[1]
    both = x.T @ x
    ones = x.sum(0)
    counts = torch.empty(D, D, 2, 2, dtype=torch.float64)
    counts[..., 1, 1] = both
    counts[..., 1, 0] = ones[:, None] - both
    counts[..., 0, 1] = ones[None, :] - both
    counts[..., 0, 0] = len(x) - ones[:, None] - ones[None, :] + both
    joint = (counts + 1) / (len(x) + 4)
    single = torch.stack([len(x) - ones + 2, ones + 2], -1) / (len(x) + 4)
    information = (joint * (joint / (single[:, None, :, None] * single[None, :, None, :])).log()).sum((2, 3))
    weights = csr_matrix(-np.triu(information.numpy() + 1e-12, 1))
    spanning = minimum_spanning_tree(weights)
    _, parents = breadth_first_order(spanning, 0, directed=False)
    places = test.long()
    found = single[0].log()[places[:, 0]]
    for child in range(1, D):
        parent = int(parents[child])
        conditional = joint[parent, child].log() - single[parent].log()[:, None]
        found = found + conditional[places[:, parent], places[:, child]]
    return found


def pair(num_columns: int) -> pv.VAE:
    """Perceptrons around four latents."""
    model = LatentVariableModel(StandardNormal(K), Bernoulli(MLP(K, num_columns, HIDDEN)))
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(MLP(num_columns, (K, K), HIDDEN))))


@torch.no_grad()
def nearly_exact(decoder: nn.Module, x: Tensor, scrambles: int = SCRAMBLES) -> tuple[Tensor, Tensor]:
    """log p(x) by row from 2^13 Sobol points, scrambled so many times, and the error of that, [N] each."""
    by_scramble = []
    for seed in range(scrambles):
        u = torch.quasirandom.SobolEngine(K, scramble=True, seed=seed).draw(2**POINTS, dtype=torch.float64)
        z = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).float()
        logits = decoder(z)
        log_given = x @ logits.T - softplus(logits).sum(-1)  # [N, points]
        by_scramble.append(log_given.double().logsumexp(1) - POINTS * math.log(2))
    runs = torch.stack(by_scramble)
    mean = runs.logsumexp(0) - math.log(scrambles)
    relative = (runs - mean).exp()
    return mean, relative.std(0) / scrambles**0.5


def compared(name: str, vae: pv.VAE, test: Tensor, exact: Tensor, error: Tensor) -> dict[str, Any]:
    """`log_marginal` beside the truth: how far the mean is off, and how many rows' intervals hold it."""
    found = pv.log_marginal(vae, test, num_samples=WEIGHTS, seed=0)
    off = found.log_marginal - exact
    inside = off.abs() <= 1.96 * torch.hypot(found.std_error, error)
    good = found.khat < found.good_k
    return {
        "set": name,
        "log p(x), nearly exact": float(exact.mean()),
        "its error": float(error.square().sum().sqrt() / len(exact)),
        "largest error of a row": float(error.max()),
        "log_marginal": float(found.log_marginal.mean()),
        "its Monte Carlo error": found.total[1] / len(test),
        "it says it errs low by at least": -found.total_bias / len(test),
        "it is off by": float(off.mean()),
        "rows within 95% intervals": float(inside.double().mean()),
        "rows with good Pareto k": float(good.double().mean()),
        "of these within": float(inside[good].double().mean()),
        "verdict": found.verdict,
        "ELBO": float(pv.elbo(vae, test, num_samples=10, seed=0).elbo.mean()),
    }


def train(run: Run, name: str, seed: int) -> tuple[pv.VAE, pd.DataFrame]:
    """One VAE of one table."""
    x = table(name, "train")
    torch.manual_seed(seed)
    vae = pair(x.shape[1])
    history = run.fit(
        f"binary_{name}_{seed}",
        vae,
        x,
        epochs=EPOCHS,
        every=20,
        validation=table(name, "valid"),
        batch_size=BATCH,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATE, weight_decay=DECAY, fused=True),
        seed=seed,
        callbacks=[pv.callbacks.EarlyStopping(patience=PATIENCE)],
    )
    return vae, history


def main(run: Run, seeds: Sequence[int] = SEEDS, names: Sequence[str] = tuple(TREES)) -> None:
    """Floors, VAEs, and the oracle."""
    figures: list[Figure] = []
    oracle: list[dict[str, Any]] = []
    for name in names:
        parts = {part: table(name, part) for part in ("train", "test")}
        for what, rule, published in (
            ("independent columns", independent, INDEPENDENT),
            ("Chow-Liu tree", tree, TREES),
        ):
            found = rule(parts["train"], parts["test"])
            figures.append(
                Figure(
                    f"{name}: log p(x), nats, {what}",
                    float(found.mean()),
                    math.nan,
                    "",
                    published[name],
                    math.nan,
                    OF_FLOORS,
                    "closed form",
                    0.0,
                    higher_is_better=True,
                )
            )
        by_seed, seconds, trained = [], 0.0, ""
        for seed in seeds[: run.seeds]:
            vae, history = train(run, name, seed)
            exact, error = nearly_exact(vae.model.likelihood.network, parts["test"])
            by_seed.append(float(exact.mean()))
            seconds += float(history["seconds"].sum())
            trained = done(history, EPOCHS)
            if seed == seeds[0]:
                oracle.append(compared(name, vae, parts["test"], exact, error))
        mean, spread = over_seeds(by_seed)
        of = f"sd of {len(by_seed)} seeds" if len(by_seed) > 1 else ""
        figures.append(
            Figure(
                f"{name}: log p(x), nats, VAE of 4 latents",
                mean,
                spread,
                of,
                math.nan,
                math.nan,
                "",
                trained + ", stopped early" * (len(history) < EPOCHS),
                seconds / len(by_seed),
                higher_is_better=True,
            )
        )
        findings = (
            FINDINGS
            + "\n\n"
            + report.markdown(pd.DataFrame(oracle).set_index("set").T.reset_index(names="seed 0"))
        )
        write("binary_sets", "Binary density sets", figures, SETTINGS, findings)
        pd.DataFrame(oracle).round(6).to_csv(RESULTS / "binary_sets_oracle.csv", index=False)


FINDINGS = (
    f"`log_marginal` with {WEIGHTS} draws of the guide against the nearly exact figures of all test rows. Intervals "
    "are 1.96 errors of both."
)
SETTINGS = {
    "data": "binary density sets, their own parts",
    "floors": "counts of columns begun at one, those of pairs of columns too",
    "VAE": f"K = {K}, perceptrons D-{'-'.join(map(str, HIDDEN))}-({K}, {K}) and back, ReLU",
    "optimizer": f"Adam, {RATE:g}, weight decay {DECAY:g}, batches of {BATCH}, {EPOCHS} epochs, patience {PATIENCE}",
    "nearly exact": f"2^{POINTS} Sobol points, {SCRAMBLES} scramblings",
    "seeds": "0 and on",
}
