"""A semi-supervised VAE whose absent labels are summed out: what its steps cost, and how well it classifies.

The model M2 of Kingma, Rezende, Mohamed & Welling, "Semi-supervised Learning with Deep Generative Models" (2014),
https://arxiv.org/abs/1406.5298: a normal z [50], a digit's class y, and x given both.

`python -m benchmarks.semi_supervised`: steps of the model, its labels enumerated, against the same by hand, in turn in
one run. `python -m benchmarks.semi_supervised errors`, with PYROVAE_DATA the folder of `mnist.npz`: the error rate on
test digits after training on 50000 of which 100 have labels. `--write` keeps the table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor, nn
from torch.nn.functional import one_hot

import pyrovae as pv
from benchmarks import by_hand, data, report
from benchmarks.rivals import RATE, RIVALS
from benchmarks.training import WARM_UP, machine, measure
from benchmarks.training_tasks import Task, digits
from pyrovae.nn import MLP, positive

SIZE, HIDDEN, K, CLASSES = 784, 500, 50, 10
BATCH, STEPS, ROUNDS = 128, 40, 15
COMPARED = ("compiled", "plain", "by hand")
# Of the error rate.
LABELS, REPEATED, WEIGHT, EPOCHS, SEEDS = 100, 50, 5.0, 10, (0,)
PUBLISHED = "11.97 ± 1.71 % (Kingma et al. 2014, table 1, M2)"


class Digits(nn.Module):
    """p(z) p(y) p(x|y,z), where a row whose label is NaN has none."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = MLP(K + CLASSES, SIZE, [HIDDEN])

    @config_enumerate
    def forward(self, x: Tensor, y: Tensor) -> None:
        """p(x,y,z)."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(K), 1.0).to_event(1))
            classes = dist.Categorical(logits=x.new_zeros(CLASSES))
            label = pyro.sample("y", classes, obs=y, obs_mask=~y.isnan())
            logits = self.decoder(z, one_hot(label.long(), CLASSES).to(x))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class Blind(nn.Module):
    """q(z|x): labels are left to the model, to be summed out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MLP(SIZE, (K, K), [HIDDEN])

    def forward(self, x: Tensor, y: Tensor) -> None:
        """q(z|x)."""
        location, raw = self.encoder(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(location, positive(raw)).to_event(1))


class Classifying(nn.Module):
    """q(y|x) q(z|x,y); each known label adds `WEIGHT` log q(y|x) to what is trained, as in the paper.

    `has_rsample=True`: else Pyro takes the factor for a draw's density, and adds a score-function gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classifier = MLP(SIZE, CLASSES, [HIDDEN])
        self.encoder = MLP(SIZE + CLASSES, (K, K), [HIDDEN])

    @config_enumerate
    def forward(self, x: Tensor, y: Tensor) -> None:
        """q(y,z|x)."""
        known, label = ~y.isnan(), y.nan_to_num().long()
        q = dist.Categorical(logits=self.classifier(x))
        with pyro.plate("rows", len(x)):
            with poutine.mask(mask=~known):
                drawn = pyro.sample("y_unobserved", q)
            with poutine.mask(mask=known):
                pyro.factor("labels", -WEIGHT * q.log_prob(label), has_rsample=True)
            label = torch.where(known, label, drawn)
            location, raw = self.encoder(x, one_hot(label, CLASSES).to(x))
            pyro.sample("z", dist.Normal(location, positive(raw)).to_event(1))


def partly_labelled(rows: int) -> tuple[Tensor, Tensor]:
    """Digits, one in fifty with a label: of the steps' cost alone, so that any will do."""
    places = torch.arange(rows)
    return *digits(rows), torch.where(places % 50 == 0, (places % CLASSES).float(), torch.nan)


TASK = Task(
    "M2, labels enumerated",
    BATCH,
    STEPS,
    lambda: pv.VAE(Digits(), Blind()),
    lambda: by_hand.SemiSupervised(SIZE, HIDDEN, K, CLASSES),
    partly_labelled,
)


def mnist(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """50000 training digits, ten of each class with their labels and `REPEATED` times, and 10000 test digits.

    Bits are drawn once. Repeated, so that most batches have some labels.
    """
    arrays = data.archive("mnist.npz")
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part, rows in (("train", slice(50000)), ("test", slice(None))):
        x = torch.as_tensor(arrays[f"x_{part}"][rows]).flatten(1).float() / 255
        parts.append(
            (torch.bernoulli(x, generator=generator), torch.as_tensor(arrays[f"y_{part}"][rows]).long())
        )
    (x, truth), test = parts
    y = torch.full((len(x),), torch.nan)
    for k in range(CLASSES):
        places = (truth == k).nonzero()[:, 0]
        chosen = places[torch.randperm(len(places), generator=generator)[: LABELS // CLASSES]]
        y[chosen] = float(k)
    labelled = (~y.isnan()).nonzero()[:, 0].repeat(REPEATED - 1)
    return (torch.cat([x, x[labelled]]), torch.cat([y, y[labelled]])), test


def error_rate(seed: int) -> dict[str, Any]:
    """Train, and classify the test digits by q(y|x)."""
    (x, y), (x_test, y_test) = mnist(seed)
    torch.manual_seed(seed)
    guide = Classifying()
    vae = pv.VAE(Digits(), guide)
    started = time.perf_counter()
    history = pv.fit(vae, (x, y), epochs=EPOCHS, batch_size=BATCH, seed=seed, compile=True, progress=False)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        wrong = guide.classifier(x_test).argmax(-1) != y_test
    return {
        "seed": seed,
        "labels": LABELS,
        "test error, %": 100 * float(wrong.float().mean()),
        "loss": float(history["loss"].iloc[-1]),
        "seconds": seconds,
        "steps": history.attrs["engine"],
    }


def steps(device: torch.device) -> tuple[pd.DataFrame, str]:
    """Ratios of steps, and milliseconds."""
    measured = measure(TASK, device, ROUNDS, {name: RIVALS[name] for name in COMPARED})
    times = report.markdown(pd.DataFrame([measured.milliseconds()]))
    absent = [f"- not measured: {name}: {why}" for name, why in measured.absent.items()]
    found = ["Milliseconds a step, medians of the same rounds:", "", times, *absent]
    return pd.DataFrame(measured.ratios(device)), "\n".join(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("steps", "errors"), default="steps")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    settings = {
        "device": machine(device),
        "threads": 1,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "load of the machine": "{:.0f}, {:.0f}, {:.0f}".format(*os.getloadavg()),
        "model": f"{SIZE}-{HIDDEN}-{K}, {CLASSES} classes, batch {BATCH}",
    }
    if given.what == "steps":
        table, found = steps(device)
        settings["measured"] = (
            f"medians of {ROUNDS} rounds of {STEPS} steps after {WARM_UP}, in turn, gathering included"
        )
        settings["optimizer"] = f"Adam, {RATE:g}, fused"
        name, title = (
            "semi_supervised_steps",
            "Steps of M2, its labels enumerated by the model: ratios to the same by hand",
        )
    else:
        table, found = pd.DataFrame([error_rate(seed) for seed in SEEDS]), f"Published: {PUBLISHED}."
        settings["recipe"] = (
            f"{EPOCHS} epochs, Adam, 1e-3; rows with labels {REPEATED} times, each adding {WEIGHT:g} log q(y|x); "
            "bits drawn once"
        )
        name, title = (
            "semi_supervised_errors",
            f"M2 on MNIST with {LABELS} labels: errors of q(y|x) on 10000 test digits",
        )
    if given.write:
        report.write(name, title, table, settings, found)
    else:
        print(report.text(title, table, settings, found), flush=True)


if __name__ == "__main__":
    main()
