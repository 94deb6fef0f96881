"""How often calibration, TARP and the two-sample test speak against what is right, and find what is wrong.

`python -m benchmarks.false_alarms guides data`, a few minutes on one core. Guides and data with known faults: none,
scales off by 10 %, a posterior and a data set of which one mode is missing. 200 repetitions of each (50 of wrong data),
at a rate of 5 %.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import report
from pyrovae.criticism.quantities import DISTANCE

RATE, DRAWS = 0.05, 49
# Repetitions, and simulations or rows, of what is right and of what is wrong.
RIGHT, WRONG = (200, 200), (200, 2000)
OF_DATA_WRONG = (50, 1500)
K, D, NOISE = 2, 8, 0.5


class Linear(nn.Module):
    """z ~ N(0, I), x ~ N(W z, s^2 I), with its posterior, of which scales may be off by a factor."""

    def __init__(self, factor: float = 1.0, noise: float = NOISE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W = torch.randn(D, K, generator=generator, dtype=torch.float64)
        self.factor, self.noise = factor, noise

    def forward(self, x: Tensor) -> None:
        """The model."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The posterior, its scales times the factor."""
        precision = torch.eye(K, dtype=torch.float64) + self.W.T @ self.W / self.noise**2
        covariance = torch.linalg.inv(precision)
        location = x @ self.W / self.noise**2 @ covariance
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(location, self.factor**2 * covariance))


class TwoModes(nn.Module):
    """z ~ N(+-2, 0.5^2) and x ~ N(|z|, 0.5^2): the posterior has two modes, of which a guide may miss one."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> None:
        """The model."""
        with pyro.plate("rows", len(x)):
            parts = dist.Normal(torch.tensor([-2.0, 2.0], dtype=torch.float64), 0.5)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))
            pyro.sample("x", dist.Normal(z.abs(), 0.5), obs=x)

    def guide(self, x: Tensor) -> None:
        """A normal about each mode, or about the upper one alone."""
        location = (x + 2) / 2
        modes = torch.stack([-location, location], -1)
        weights = torch.stack([torch.full_like(x, 1.0 if self.both else 1e-12), torch.ones_like(x)], -1)
        with pyro.plate("rows", len(x)):
            parts = dist.Normal(modes, 0.125**0.5)
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(weights), parts))


def of_linear(factor: float = 1.0) -> pv.VAE:
    model = Linear(factor)
    return pv.VAE(model, model.guide, example=torch.zeros(5, D, dtype=torch.float64))


def of_modes(both: bool) -> pv.VAE:
    model = TwoModes(both=both)
    return pv.VAE(model, model.guide, example=torch.zeros(5, dtype=torch.float64))


GUIDES: dict[str, Callable[[], pv.VAE]] = {
    "exact": of_linear,
    "exact, two modes": lambda: of_modes(True),
    "scales x 0.9": lambda: of_linear(0.9),
    "scales x 1.1": lambda: of_linear(1.1),
    "a mode missing": lambda: of_modes(False),
}


def norm(z: Tensor, x: Tensor) -> Tensor:
    """A user's quantity: how far from zero."""
    return z.abs() if z.dim() == 2 else z.norm(dim=-1)


def of_guides() -> list[dict[str, Any]]:
    """Shares of repetitions in which each check speaks against the guide."""
    lines = []
    for name, make in GUIDES.items():
        vae = make()
        repetitions, simulations = RIGHT if name.startswith("exact") else WRONG
        against = dict.fromkeys(("calibrate", "z", "norm", "log q(z given x)", "TARP", "corrected"), 0)
        for seed in range(repetitions):
            found = pv.calibrate(
                vae,
                num_simulations=simulations,
                num_draws=DRAWS,
                false_alarm_rate=RATE,
                quantities={"norm": norm},
                tarp=True,
                seed=seed,
            )
            p_values = found.p_values["guide"]
            first = next(iter(p_values.index))
            against["calibrate"] += not found.passed
            against["corrected"] += not found.corrected_passed
            for check, quantity in (
                ("z", first),
                ("norm", "norm"),
                ("log q(z given x)", "log q(z|x)"),
                ("TARP", DISTANCE),
            ):
                against[check] += bool(p_values[quantity] < RATE)
        lines += [_line(name, check, simulations, repetitions, count) for check, count in against.items()]
        print(pd.DataFrame(lines).tail(len(against)), flush=True)
    return lines


def _rows(kind: str, N: int, generator: torch.Generator) -> Tensor:
    """Rows of the model, of its noise times 1.1, of its latents times 1.1, or with a sixth of another mode."""
    noise = NOISE * (1.1 if kind == "noise x 1.1" else 1.0)
    z = torch.randn(N, K, generator=generator, dtype=torch.float64) * (
        1.1 if kind == "latents x 1.1" else 1.0
    )
    if kind == "another mode in 10%":
        z[: N // 10] += 3.0
    return z @ Linear().W.T + noise * torch.randn(N, D, generator=generator, dtype=torch.float64)


OWN = "the model's own"
DATA = {
    OWN: 1.0,
    "the model's own, guide's scales halved": 0.5,
    "latents x 1.1": 1.0,
    "noise x 1.1": 1.0,
    "another mode in 10%": 1.0,
}


def of_data() -> list[dict[str, Any]]:
    """Shares of repetitions in which the two-sample test speaks against the data."""
    lines = []
    for kind, factor in DATA.items():
        vae, is_own = of_linear(factor), kind.startswith(OWN)
        repetitions, N = (RIGHT[0], RIGHT[1]) if is_own else OF_DATA_WRONG
        against = 0
        for seed in range(repetitions):
            x = _rows(kind, N, torch.Generator().manual_seed(seed))
            found = pv.resembles(vae, x, num_rows=N, num_swaps=499, false_alarm_rate=RATE, seed=seed)
            against += not found.passed
        lines.append(_line(kind, "resembles", N, repetitions, against))
        print(lines[-1], flush=True)
    return lines


def _line(case: str, check: str, size: int, repetitions: int, count: int) -> dict[str, Any]:
    share = count / repetitions
    return {
        "case": case,
        "check": check,
        "simulations or rows": size,
        "repetitions": repetitions,
        "speaks against it": share,
        "error": math.sqrt(share * (1 - share) / repetitions),
    }


SETTINGS = {
    "rate": RATE,
    "linear model": f"{K} latents, {D} columns, noise {NOISE}",
}
PARTS = {
    "guides": (
        of_guides,
        "What calibration and TARP find",
        {"draws of a simulation": DRAWS, "two modes": "z ~ N(+-2, 0.5^2), x ~ N(|z|, 0.5^2)"},
        "Single quantities at 5 % each; `calibrate` and `corrected` (weighted draws) at 5 % over all of them together. "
        "An exact guide should fail in 5 % of the repetitions or fewer, to an error of 1.5 %. Weights mend scales that "
        "are off, and no mode that is missing.",
    ),
    "data": (
        of_data,
        "What the two-sample test finds",
        {},
        "The model's own rows should fail in 5 % of the repetitions, to an error of 1.5 %, whatever the guide.",
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        lines, title, settings, findings = PARTS[part]
        report.write(f"false_alarms_{part}", title, pd.DataFrame(lines()), {**SETTINGS, **settings}, findings)
