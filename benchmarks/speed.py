"""What composing costs: steps of a composed model against the same model as one Pyro program; calls of flows.

In plain Pyro: once traced, both are the same operations.

`python -m benchmarks.speed`
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import report
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import Bernoulli, FlowPrior, LatentVariableModel, StandardNormal, affine_flow, spline_flow
from pyrovae.nn import MLP, positive

D, HIDDEN, K, BATCH = 784, 400, 20, 20
STEPS, PAIRS, SEED = 50, 30, 0


class OneProgram(nn.Module):
    """The composed model, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = MLP(K, D, [HIDDEN])
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(K), persistent=False)

    def forward(self, x: Tensor) -> None:
        """p(z) p(x|z)."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class OneGuide(nn.Module):
    """The composed guide, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MLP(D, (K, K), [HIDDEN])

    def forward(self, x: Tensor) -> None:
        """q(z|x)."""
        location, raw = self.encoder(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(location, positive(raw)).to_event(1))


def composed() -> pv.VAE:
    """The pair from parts."""
    posterior = DiagonalNormal(MLP(D, (K, K), [HIDDEN]))
    model = LatentVariableModel(StandardNormal(K), Bernoulli(MLP(K, D, [HIDDEN])))
    return pv.VAE(model, AmortizedGuide(posterior))


def seconds_a_step() -> dict[str, list[float]]:
    """Interleaved in pairs, each of `STEPS` training steps; the order turns about."""
    torch.manual_seed(SEED)
    vaes = {"composed": composed(), "one program": pv.VAE(OneProgram(), OneGuide())}
    x = torch.bernoulli(torch.full((STEPS * BATCH, D), 0.2))
    optimizers = {name: torch.optim.Adam(_ready(vae, x).parameters(), lr=1e-3) for name, vae in vaes.items()}
    taken: dict[str, list[float]] = {name: [] for name in vaes}
    for pair in range(PAIRS + 1):
        for name in sorted(vaes, reverse=pair % 2 == 1):
            history = pv.fit(
                vaes[name],
                x,
                epochs=1,
                batch_size=BATCH,
                optimizer=optimizers[name],
                seed=pair,
                compile=False,
                progress=False,
            )
            if pair:  # the first warms up
                taken[name].append(float(history.seconds[0]) / STEPS)
    return taken


def _ready(vae: pv.VAE, x: Tensor) -> pv.VAE:
    vae.rows(x)
    return vae


def calls_to_draw(flow: FlowPrior) -> int:
    """How often linear layers run for one draw: a loop over dimensions would make it grow with K."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for module in flow.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    flow().sample((7,))
    return calls


def main() -> None:
    """Time the two, count the calls, write the table."""
    taken = {name: pd.Series(times) * 1e3 for name, times in seconds_a_step().items()}
    lines: list[dict[str, Any]] = []
    for name, times in taken.items():
        lines.append(
            {
                "model": name,
                "median ms a step": float(times.median()),
                "quartiles": f"{times.quantile(0.25):.3f} to {times.quantile(0.75):.3f}",
            }
        )
    ratio = float(taken["composed"].median() / taken["one program"].median())
    by_pair = (taken["composed"] / taken["one program"]).median()
    flows = {"affine_flow": affine_flow, "spline_flow": spline_flow}
    counts = [
        f"{name}: {', '.join(f'{calls_to_draw(make(size))} at K = {size}' for size in (4, 16, 64))}"
        for name, make in flows.items()
    ]
    findings = (
        f"Ratio of medians, composed to one program: {ratio:.3f} (median of the ratios by pair: {by_pair:.3f}).\n\n"
        f"Linear layers run to draw once from a flow prior of 4 couplings, whatever K: {'; '.join(counts)}."
    )
    report.write("speed", "A composed model against one program", pd.DataFrame(lines), SETTINGS, findings)


SETTINGS = {
    "networks": f"MLPs {D}-{HIDDEN}-({K}, {K}) and {K}-{HIDDEN}-{D}",
    "batch": BATCH,
    "measured": f"pv.fit with compile=False and Adam, {PAIRS} interleaved pairs of {STEPS} steps after one to warm up",
    "seed": SEED,
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
