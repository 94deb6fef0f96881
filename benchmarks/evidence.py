"""How fast log p(x) is estimated: weights a second against what the decoder's matrix products alone allow.

Networks 784-200-200-50, rows of 784 bits. With pythae installed, its `get_nll` on the same networks as well.
Run: python -m benchmarks.evidence, on --threads N; with --full a model trained on statically binarized MNIST, its
10,000 test rows and 5000 samples, for which PYROVAE_DATA names the folder of data sets.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import annealed, data, report
from benchmarks.in_pythae import pythae_vae

D, HIDDEN, K = 784, 200, 50
NUM_ROWS, NUM_SAMPLES, REPEATS = 512, 500, 3
FULL_SAMPLES, EPOCHS, BATCH = 5000, 100, 100
MEMORY_BUDGET = 2**31
PYTHAE_ROWS, PYTHAE_BATCH = 50, 100


def weights_a_second(run: Callable[[], Any], weights: int, repeats: int = REPEATS) -> float:
    """The best of some runs."""
    taken = []
    for _ in range(repeats):
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


def untrained() -> tuple[pv.VAE, Tensor]:
    """The pair at its start, and random rows: products take as long."""
    x = torch.bernoulli(torch.full((NUM_ROWS, D), 0.2))
    return _pair(), x


def trained(device: torch.device, epochs: int = EPOCHS) -> tuple[pv.VAE, Tensor]:
    """The pair trained on statically binarized MNIST, and its test rows."""
    train, valid, test = data.static_mnist()
    vae = _pair().to(device)
    pv.fit(
        vae,
        train,
        validation=valid,
        epochs=epochs,
        batch_size=BATCH,
        callbacks=[pv.callbacks.EarlyStopping(patience=epochs)],
        seed=0,
    )
    return vae, test


def _pair() -> pv.VAE:
    torch.manual_seed(0)
    encoder, decoder = pv.nn.MLP(D, (K, K), [HIDDEN, HIDDEN]), pv.nn.MLP(K, D, [HIDDEN, HIDDEN])
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), pv.models.Bernoulli(decoder))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)))


def measure(vae: pv.VAE, x: Tensor, *, full: bool = False) -> tuple[pd.DataFrame, float, pv.LogMarginal]:
    """Weights a second of each way, the process's high-water mark in GiB, and the last estimates of log p(x)."""
    num_rows, num_samples = len(x), FULL_SAMPLES if full else NUM_SAMPLES
    vae.rows(x)
    guide, model = cast(Any, vae.guide), cast(Any, vae.model)
    encoder, decoder = guide.posterior.network, model.likelihood.network
    before = products_alone(decoder, vae.device)
    lines: list[dict[str, Any]] = []
    found: list[pv.LogMarginal] = []
    for share in (0.0,) if full else (0.0, 0.1, 1.0):
        for compile in ("auto",) if full else (False, "auto"):
            given: dict[str, Any] = {"num_samples": num_samples, "compile": compile, "seed": 0}
            given |= {"method": pv.ImportanceSampling(prior_share=share), "memory_budget": MEMORY_BUDGET}
            rate = weights_a_second(
                lambda given=given: found.append(pv.log_marginal(vae, x, progress=full, **given)),
                num_rows * num_samples,
                1 if full else REPEATS,
            )
            what = f"log_marginal, prior_share={share}, compile={compile!r}"
            lines.append({"what": what, "weights a second": rate})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    products = max(before, products_alone(decoder, vae.device))
    lines.insert(0, {"what": "decoder's products alone", "weights a second": products})
    if (rate := by_pythae(encoder, decoder, x)) is not None:
        lines.append({"what": "pythae get_nll", "weights a second": rate})
    table = pd.DataFrame(lines)
    table["of the products"] = table["weights a second"] / products
    return table, memory, found[-1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table; what another device than the CPU gives is only printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="a trained model, 10,000 rows and 5000 samples")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    vae, x = trained(device) if given.full else untrained()
    table, memory, estimates = measure(vae.to(device), x.to(device), full=given.full)
    settings = {
        "networks": f"{D}-{HIDDEN}-{HIDDEN}-{K}",
        "weights": f"{EPOCHS} epochs of statically binarized MNIST, the best kept"
        if given.full
        else "at their start",
        "rows and samples": f"{len(x)} and {estimates.num_samples}; the best of {1 if given.full else REPEATS} runs",
        "threads": str(given.threads),
        "memory": f"budget {MEMORY_BUDGET / 2**30:.0f} GiB; high-water mark of the process {memory:.2f} GiB",
    }
    title = "Estimates of log p(x): weights a second"
    findings = ""
    if given.full:
        found = annealed.beside(vae, x.to(device), estimates)
        error = float(found.more.std()) / len(found.more) ** 0.5
        findings = (
            f"Of the {len(x)} test rows:\n\n```\n{estimates}\n```\n\nAnnealing ({annealed.HOW}) finds "
            f"{float(found.more.mean()):.2f} ± {error:.2f} nats a row more: log p(x) is about "
            f"{found.log_marginal:.2f} ± {found.error:.2f}."
        )
    if device.type == "cpu":
        report.write("evidence_full" if given.full else "evidence", title, table, settings, findings)
    else:
        print(report.text(title, table, settings, findings), flush=True)


if __name__ == "__main__":
    main()
