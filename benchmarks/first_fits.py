"""A small training as a user feels it: a new process, imports, tracing and compiling, 20 and 200 epochs.

`python -m benchmarks.first_fits` runs each way in a process of its own and takes the seconds from its start to its end;
`--write` keeps the table. Perceptrons 64-128-8 on the digits of scikit-learn, batch 128, Adam 1e-3. A compiler's cache
is an empty folder at each first run ("cold"), and what that left at the next ("warm").
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

SIZE, HIDDEN, K, BATCH, RATE = 64, 128, 8, 128, 1e-3
EPOCHS, ROUNDS = (20, 200), 3


def rows() -> Any:
    """Digits as bits, [1797, 64]."""
    import torch
    from sklearn.datasets import load_digits

    return torch.as_tensor(load_digits().data > 8).float()


def ours(compile: Any) -> Callable[[int], None]:
    """`pyrovae.fit`."""

    def train(epochs: int) -> None:
        import torch

        import pyrovae as pv

        torch.manual_seed(0)
        model = pv.models.LatentVariableModel(
            pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, SIZE, [HIDDEN]))
        )
        posterior = pv.guides.DiagonalNormal(pv.nn.MLP(SIZE, (K, K), [HIDDEN]))
        vae = pv.VAE(model, pv.guides.AmortizedGuide(posterior))
        pv.fit(vae, rows(), epochs=epochs, batch_size=BATCH, compile=compile, seed=0, progress=False)

    return train


def by_hand(*, compiled: bool) -> Callable[[int], None]:
    """Plain PyTorch, also through `torch.compile`."""

    def train(epochs: int) -> None:
        import torch

        from benchmarks import by_hand

        torch.manual_seed(0)
        model = by_hand.perceptrons(SIZE, HIDDEN, K)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

        def mean_loss(x: Any) -> Any:
            log_likelihood, rate = model(x)
            return (rate - log_likelihood).mean()

        loss_of, x = torch.compile(mean_loss) if compiled else mean_loss, rows()
        for _ in range(epochs):
            for places in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                loss_of(x[places]).backward()
                optimizer.step()

    return train


def svi(*, validation: bool) -> Callable[[int], None]:
    """`pyro.infer.SVI` on the same programs."""

    def train(epochs: int) -> None:
        import pyro
        import pyro.distributions as dist
        import torch

        from benchmarks import by_hand

        torch.manual_seed(0)
        networks = by_hand.perceptrons(SIZE, HIDDEN, K)

        def model(x: Any) -> None:
            decoder = pyro.module("decoder", networks.decoder)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(K), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(x: Any) -> None:
            encoder = pyro.module("encoder", networks.encoder)
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

        x = rows()
        inference = pyro.infer.SVI(
            model, guide, pyro.optim.Adam({"lr": RATE, "fused": True}), loss=pyro.infer.Trace_ELBO()
        )
        with pyro.validation_enabled(validation):
            for _ in range(epochs):
                for places in torch.randperm(len(x)).split(BATCH):
                    inference.step(x[places])

    return train


def numpyro(epochs: int) -> None:
    """The same in NumPyro, by the Python that PYROVAE_NUMPYRO names."""
    from tempfile import NamedTemporaryFile

    import numpy as np
    from sklearn.datasets import load_digits

    from benchmarks import in_numpyro

    with NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, (load_digits().data > 8).astype(np.float32))
        command = [in_numpyro.__file__, file.name, *map(str, (BATCH, HIDDEN, K, RATE))]
        # It trains one epoch more, to compile.
        subprocess.run(
            [os.environ["PYROVAE_NUMPYRO"], *command],
            input="\n" * epochs,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )


WAYS: dict[str, Callable[[int], None]] = {
    'pyrovae, compile="auto"': ours("auto"),
    "pyrovae, compile=True": ours(True),
    "pyrovae, compile=False": ours(False),
    "by hand": by_hand(compiled=False),
    "by hand, torch.compile": by_hand(compiled=True),
    "pyro.infer.SVI": svi(validation=True),
    "SVI without validation": svi(validation=False),
    "NumPyro": numpyro,
}


def seconds(way: str, epochs: int, cache: str, threads: int) -> float:
    """From the start of a process to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": cache}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.first_fits", "--way", way, "--epochs", str(epochs)],
        env=environment,
        check=True,
    )
    return time.perf_counter() - started


def table(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Medians over rounds, one way after another in each."""
    import statistics

    ways = [way for way in WAYS if way != "NumPyro" or os.environ.get("PYROVAE_NUMPYRO")]
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for way in ways:
            with TemporaryDirectory() as cache:
                for epochs in EPOCHS:
                    kinds = ("cold", "warm") if epochs == EPOCHS[0] else ("warm",)
                    for kind in kinds:
                        found = seconds(way, epochs, cache, threads)
                        taken.setdefault((way, f"{epochs} epochs, {kind}"), []).append(found)
    kinds = dict.fromkeys(kind for _, kind in taken)
    return [{"seconds": way} | {kind: statistics.median(taken[way, kind]) for kind in kinds} for way in ways]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--epochs", type=int, default=EPOCHS[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    given = parser.parse_args(arguments)
    if given.way:
        WAYS[given.way](given.epochs)
        return
    import pandas as pd
    import torch

    from benchmarks import report
    from benchmarks.training import machine

    settings = {
        "device": machine(torch.device("cpu")),
        "threads": given.threads,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "load of the machine": "{:.0f}, {:.0f}, {:.0f}".format(*os.getloadavg()),
        "model": f"perceptrons {SIZE}-{HIDDEN}-{K}, digits, batch {BATCH}",
        "measured": f"wall time of whole processes, medians of {given.rounds} rounds",
    }
    found = pd.DataFrame(table(given.threads, given.rounds))
    if given.write:
        name = "first_fits" if given.threads == 1 else f"first_fits_{given.threads}_threads"
        report.write(name, TITLE, found, settings, NOTE)
    else:
        print(report.text(TITLE, found, settings, NOTE), flush=True)


TITLE = "A small training in a new process: seconds from its start to its end"
NOTE = (
    "Imports, tracing and compiling included; cold is with an empty cache of the compiler, warm with what the run "
    "before left in it. NumPyro's figures include a process that only starts it."
)

if __name__ == "__main__":
    main()
