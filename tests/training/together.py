"""Trainings by several processes: a script that lightning-fabric runs again, or that torchrun starts.

Run as `python -m tests.training.together FOLDER begin`, where one process dies in the end, then as
`torchrun -m tests.training.together FOLDER resume`. Each process writes what it found to FOLDER.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping
from pyrovae.traced import traced
from pyrovae.training import steps
from tests.pairs import binary_rows
from tests.training import test_nonfinite as nonfinite

# 5 batches of 8 rows, and one of a single row, of which the second process has none.
N, BATCH, EPOCHS = 41, 8, 2


class Noiseless(nn.Module):
    """A pair whose noise is data, so that any number of processes sees the same."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.decoder = nn.Parameter(torch.randn(2, 6, generator=generator, dtype=dtype))
        self.encoder = nn.Parameter(torch.randn(6, 2, generator=generator, dtype=dtype))
        self.unused = nn.Parameter(torch.ones(3, dtype=dtype))

    def model(self, x, noise):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ self.decoder).to_event(1), obs=x)

    def guide(self, x, noise):
        mean = x.nan_to_num() @ self.encoder
        z = mean + 0.5 * noise
        with pyro.plate("rows", len(x)):
            log_density = dist.Normal(mean, 0.5).to_event(1).log_prob(z)
            pyro.sample("z", dist.Delta(z, log_density=log_density, event_dim=1))


class NoiselessAbove(Noiseless):
    """The same below offsets that all rows share, whose noise is the same at every draw."""

    def __init__(self, dtype=torch.float32):
        super().__init__(dtype)
        self.loc = nn.Parameter(torch.linspace(-0.5, 0.5, 6, dtype=dtype))

    def model(self, x, noise):
        zeros = torch.zeros(6, dtype=x.dtype)
        offset = pyro.sample("offset", dist.Normal(zeros, 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(zeros[:2], 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ self.decoder + offset).to_event(1), obs=x)

    def guide(self, x, noise):
        offset = self.loc + torch.linspace(-0.3, 0.4, 6, dtype=x.dtype)
        log_density = dist.Normal(self.loc, 0.5).to_event(1).log_prob(offset)
        pyro.sample("offset", dist.Delta(offset, log_density=log_density, event_dim=1))
        super().guide(x, noise)


class Normed(nn.Module):
    """A pair with running statistics, which each process has of its own rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(torch.initial_seed() % 1000 + 1)  # starts apart in each process
        self.encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), pv.nn.MLP(4, (2, 2)))
        self.decoder = nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.2))

    def pair(self):
        model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(self.decoder))
        return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(self.encoder)))


class Keeping(torch.optim.Adam):
    """Keeps every gradient."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01, weight_decay=0.1)
        self.gradients = []

    def step(self, closure=None):
        groups = [p for group in self.param_groups for p in group["params"]]
        self.gradients.append(
            torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in groups])
        )
        return super().step(closure)


class Seeing(Callback):
    """Keeps the rows that this process is given, by a column that numbers them."""

    def on_start(self, training):
        self.rows, plain = [], training._steps.__call__

        def watched(arguments):
            self.rows.append(arguments.x.clone())
            return plain(arguments)

        training._steps = type(
            "Watched",
            (),
            {"__call__": staticmethod(watched), "__getattr__": lambda s, n: getattr(plain.__self__, n)},
        )()


class Dying(Callback):
    """kill -9 of one process in the second epoch, between two checkpoints."""

    def __init__(self, rank):
        self._rank = rank

    def on_batch(self, training):
        if training.processes.share.rank == self._rank and training.step == 9:
            os.kill(os.getpid(), signal.SIGKILL)


def flat(vae):
    return torch.cat([t.detach().double().flatten() for t in vae.tensors().values()]).numpy()


def data(dtype=torch.float32, holes=False):
    generator = torch.Generator().manual_seed(1)
    x, noise = binary_rows(N).to(dtype), torch.randn(N, 2, generator=generator, dtype=dtype)
    if holes:  # in every other row
        x[::2, 1:4] = torch.nan
    return x, noise


def noiseless(dtype=torch.float32, compile="auto", holes=False, above=False, **settings):
    pair = (NoiselessAbove if above else Noiseless)(dtype)
    vae, seeing = pv.VAE(pair.model, pair.guide), Seeing()
    optimizer = Keeping(pair.parameters())
    history = pv.fit(
        vae,
        data(dtype, holes),
        epochs=EPOCHS,
        optimizer=optimizer,
        callbacks=[seeing],
        seed=0,
        progress=False,
        compile=compile,
        **{"batch_size": BATCH} | settings,
    )
    return {
        "weights": flat(vae),
        "gradients": torch.stack(optimizer.gradients).numpy(),
        "rows": torch.cat(seeing.rows).numpy(),
        "history": history.drop(columns="seconds").to_numpy(),
        "engine": history.attrs["engine"],
    }


def normed(folder=None, die=None, **processes):
    """Everything that could drive processes apart: dropout, running statistics, a plateau, early stopping."""
    vae = Normed().pair()
    history = pv.fit(
        vae,
        binary_rows(40),
        epochs=6,
        batch_size=8,
        seed=None,
        progress=False,
        compile="auto",
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
        scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
        validation=binary_rows(12),
        callbacks=[EarlyStopping(patience=2), Dying(die)],
        checkpoint=None if folder is None else pv.Checkpoint(folder / "training.ckpt", every_steps=2),
        resume=folder is not None,
        **processes,
    )
    return {"weights": flat(vae), "history": history.drop(columns="seconds").to_numpy()}


def skipping(**processes):
    """A row that makes running statistics NaN, in the process that has it."""
    pair, x = nonfinite.Normed(), torch.linspace(-1, 1, nonfinite.N)
    history = pv.fit(
        pv.VAE(pair.model, pair.guide),
        x,
        epochs=4,
        batch_size=5,
        seed=2,
        progress=False,
        on_nonfinite="skip",
        callbacks=[nonfinite.Poisoning(x, 2)],
        **processes,
    )
    statistics = torch.stack([pair.norm.running_mean, pair.norm.running_var]).numpy()
    weights = torch.cat([p.detach().flatten() for p in pair.parameters()]).numpy()
    return {"weights": weights, "statistics": statistics, "skipped": history.attrs["skipped"]}


def save(folder, name, found):
    np.savez(folder / f"{name}-{os.environ.get('LOCAL_RANK', '0')}.npz", **found)


def main(folder, what):
    folder = Path(folder)
    if what == "resume":  # by torchrun, which says by itself how many there are
        torch.manual_seed(9)
        save(folder, "resumed", normed(folder, device="cpu"))
        return
    processes = {"devices": 2, "strategy": "ddp", "device": "cpu"}
    save(folder, "traced", noiseless(**processes))
    save(folder, "plain", noiseless(compile=False, **processes))
    save(folder, "float64", noiseless(torch.float64, compile=False, **processes))
    save(folder, "holes", noiseless(holes=True, **processes))
    save(folder, "above", noiseless(above=True, **processes))
    save(folder, "skipping", skipping(**processes))
    torch.manual_seed(9)
    save(folder, "whole", normed(**processes))
    torch.manual_seed(9)
    normed(folder, die=1, **processes)


if __name__ == "__main__":
    steps.MIN_STEPS = 0  # trace, few as the steps are
    traced.tracing_pays_off = lambda work, calls, **_: True
    torch.set_num_threads(1)
    main(*sys.argv[1:])
