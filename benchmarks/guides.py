"""One model of digits with each guide: what it reaches and what a step costs, `python -m benchmarks.guides`.

Costs are ratios to the hand-written diagonal guide, steps of the two taken in turn in one run, medians.
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyrovae as pv
from pyrovae.demo import digits
from pyrovae.guides import AutoGuide, families

K, HIDDEN, EPOCHS, SAMPLES, PAIRS = 20, 256, 100, 1000, 300


def model() -> Any:
    return pv.models.LatentVariableModel(
        pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, 64, [HIDDEN]))
    )


def guides(generative: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        name: pv.guides.AmortizedGuide(getattr(families, name)(64, K, [HIDDEN]))
        for name in vars(families)
        if name.endswith(("_normal", "_flow", "_normals"))
    }
    made["AutoGuide, diagonal"] = AutoGuide(generative, hidden=(HIDDEN,))
    return made


def step_of(vae: pv.VAE, x: torch.Tensor) -> Any:
    """One SVI step as `fit` takes it, without the optimizer."""
    objective = pv.training.pyro.infer.Trace_ELBO()
    parameters = list(vae.parameters())

    def step() -> None:
        with vae.scope():
            loss = objective.differentiable_loss(vae.model, vae.guide, x)
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return step


def guide_of(vae: pv.VAE, x: torch.Tensor) -> Any:
    """Drawing from the guide and scoring the draw."""

    def draw() -> None:
        with torch.no_grad(), vae.scope():
            trace = pv.training.pyro.poutine.trace(vae.guide).get_trace(x)
            trace.compute_log_prob()

    return draw


def ratio(a: Any, b: Any, pairs: int = PAIRS) -> float:
    """Median over pairs of the time of a to that of b, after a warm-up."""
    ratios = []
    for turn in range(pairs + 20):
        started = time.perf_counter()
        a()
        middle = time.perf_counter()
        b()
        ended = time.perf_counter()
        if turn >= 20:
            ratios.append((middle - started) / (ended - middle))
    return statistics.median(ratios)


def main() -> None:
    torch.set_num_threads(1)
    train, _, test, _ = digits()
    batch = train[:128]
    torch.manual_seed(0)
    start = model()
    rows = []
    for name in guides(start):
        torch.manual_seed(1)
        generative = copy.deepcopy(start)
        vae, reference = (
            pv.VAE(generative, guides(generative)[name]),
            pv.VAE(generative, guides(generative)["diagonal_normal"]),
        )
        vae.rows(batch)
        reference.rows(batch)
        step = ratio(step_of(vae, batch), step_of(reference, batch))
        drawn = ratio(guide_of(vae, batch), step_of(reference, batch))
        pv.fit(
            vae,
            train,
            epochs=EPOCHS,
            batch_size=64,
            seed=0,
            progress=False,
            optimizer=lambda p: torch.optim.Adam(p, lr=1e-3),
        )
        bound = pv.elbo(vae, test, num_samples=100, seed=0)
        marginal = pv.log_marginal(vae, test, num_samples=SAMPLES, seed=0)
        gap = float((marginal.log_marginal - bound.elbo).mean())
        rows.append(
            {
                "guide": name,
                "ELBO": round(float(bound.elbo.mean()), 2),
                "log p(x)": round(float(marginal.log_marginal.mean()), 2),
                "gap": round(gap, 2),
                "Pareto k < 0.7": f"{marginal.share_good:.0%}",
                "step / diagonal step": round(step, 2),
                "draw and score / diagonal step": round(drawn, 2),
            }
        )
        print(rows[-1])
    table = pd.DataFrame(rows)
    out = Path(__file__).parent / "results"
    table.to_csv(out / "guides.csv", index=False)
    settings = (
        f"Model: p(z) = N(0, I), K = {K}; Bernoulli decoder and encoder with one hidden layer of {HIDDEN}. Digits, "
        f"binarized at half intensity, 1200 training and 397 test rows. {EPOCHS} epochs, batch 64, Adam 1e-3, seed 0. "
        f"log p(x) with {SAMPLES} samples, gap = log p(x) - ELBO, nats per test row. Costs at batch 128 on one CPU "
        f"thread: medians of {PAIRS} steps (forward and backward) in turn with the hand-written diagonal guide's."
    )
    header = "| " + " | ".join(table.columns) + " |\n|" + " --- |" * len(table.columns) + "\n"
    body = "".join("| " + " | ".join(str(v) for v in row) + " |\n" for row in table.itertuples(index=False))
    (out / "guides.md").write_text(f"# One model, every guide\n\n{header}{body}\n{settings}\n")


if __name__ == "__main__":
    main()
