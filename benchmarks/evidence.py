"""How fast log p(x) is estimated: weights a second against what the decoder's matrix products alone allow.

Networks 784-200-200-50, rows of 784 bits. With pythae installed, its `get_nll` on the same networks as well.
Run: python -m benchmarks.evidence
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import report
from benchmarks.in_pythae import pythae_vae

D, HIDDEN, K = 784, 200, 50
NUM_ROWS, NUM_SAMPLES, REPEATS = 512, 500, 3
PYTHAE_ROWS, PYTHAE_BATCH = 50, 100


def weights_a_second(run: Callable[[], Any], weights: int) -> float:
    """The best of some runs."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return weights / min(taken)


def products_alone(decoder: pv.nn.MLP, device: torch.device, draws: int = 4096) -> float:
    """Draws a second through the decoder's linear layers, nothing between or after them."""
    layers = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    inputs = [torch.randn(draws, layer.in_features, device=device) for layer in layers]

    def run() -> list[Tensor]:
        return [layer(given) for layer, given in zip(layers, inputs, strict=True)]

    with torch.no_grad():
        return weights_a_second(run, draws)


class Scaled(nn.Module):
    """(location, raw) as (location, scale)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output."""
        location, raw = self.network(x)
        return location, pv.nn.positive(raw)


def by_pythae(encoder: pv.nn.MLP, decoder: pv.nn.MLP, x: Tensor) -> float | None:
    """Weights a second of pythae's `get_nll` with the same networks; None without pythae."""
    try:
        model = pythae_vae(Scaled(encoder), decoder, (D,), K).to(x.device).eval()
    except ImportError:
        return None
    some = x[:PYTHAE_ROWS]
    with torch.no_grad():
        return weights_a_second(
            lambda: model.get_nll(some, n_samples=NUM_SAMPLES, batch_size=PYTHAE_BATCH),
            len(some) * NUM_SAMPLES,
        )


def measure(device: torch.device) -> pd.DataFrame:
    """Weights a second of each way."""
    torch.manual_seed(0)
    encoder, decoder = pv.nn.MLP(D, (K, K), [HIDDEN, HIDDEN]), pv.nn.MLP(K, D, [HIDDEN, HIDDEN])
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), pv.models.Bernoulli(decoder))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder))).to(device)
    x = torch.bernoulli(torch.full((NUM_ROWS, D), 0.2)).to(device)
    vae.rows(x)
    lines: list[dict[str, Any]] = [
        {"what": "decoder's products alone", "weights a second": products_alone(decoder, device)}
    ]
    for share in (0.0, 0.1, 1.0):
        method = pv.ImportanceSampling(prior_share=share)
        rate = weights_a_second(
            lambda method=method: pv.log_marginal(vae, x, num_samples=NUM_SAMPLES, method=method, seed=0),
            NUM_ROWS * NUM_SAMPLES,
        )
        lines.append({"what": f"log_marginal, prior_share={share}", "weights a second": rate})
    if (rate := by_pythae(encoder, decoder, x)) is not None:
        lines.append({"what": "pythae get_nll", "weights a second": rate})
    table = pd.DataFrame(lines)
    table["of the products"] = table["weights a second"] / lines[0]["weights a second"]
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table; what another device than the CPU gives is only printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args(arguments).device)
    title = "Estimates of log p(x): weights a second"
    if device.type == "cpu":
        report.write("evidence", title, measure(device), SETTINGS)
    else:
        print(report.text(title, measure(device), SETTINGS), flush=True)


SETTINGS = {
    "networks": f"{D}-{HIDDEN}-{HIDDEN}-{K}",
    "rows and samples": f"{NUM_ROWS} and {NUM_SAMPLES}; the best of {REPEATS} runs",
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
