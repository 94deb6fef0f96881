"""A semi-supervised VAE whose absent labels are summed out: what its steps cost.

The model M2 of Kingma, Rezende, Mohamed & Welling, "Semi-supervised Learning with Deep Generative Models" (2014),
https://arxiv.org/abs/1406.5298: a normal z [50], a digit's class y, and x given both. How well it classifies is in
`benchmarks/published/m2.py`.

`python -m benchmarks.semi_supervised`: steps of the model, its labels enumerated, against the same by hand, in turn in
one run; `--write` keeps the table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import Tensor, nn
from torch.nn.functional import one_hot

import pyrovae as pv
from benchmarks import by_hand, report
from benchmarks.rivals import RIVALS
from benchmarks.rivals.epochs import RATE
from benchmarks.training import WARM_UP, machine, measure
from benchmarks.training_tasks import Task, digits
from pyrovae.nn import MLP, positive

SIZE, HIDDEN, K, CLASSES = 784, 500, 50, 10
BATCH, STEPS, ROUNDS = 128, 40, 15
COMPARED = ("compiled", "plain", "by hand")


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
        "measured": f"medians of {ROUNDS} rounds of {STEPS} steps after {WARM_UP}, in turn, gathering included",
        "optimizer": f"Adam, {RATE:g}, fused",
    }
    table, found = steps(device)
    title = "Steps of M2, its labels enumerated by the model: ratios to the same by hand"
    if given.write:
        report.write("semi_supervised_steps", title, table, settings, found)
    else:
        print(report.text(title, table, settings, found), flush=True)


if __name__ == "__main__":
    main()
