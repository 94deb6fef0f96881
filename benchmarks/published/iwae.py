"""IWAE's rows of MNIST binarized afresh: one stochastic layer, k = 1, 5, 50, by the VAE's and by IWAE's bound.

Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders" (2015), https://arxiv.org/abs/1509.00519; details as
in https://github.com/yburda/iwae. 3280 epochs of each: on a GPU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import data
from benchmarks.published.figure import Figure, write
from benchmarks.published.training import Run, done, thinned
from pyrovae.guides import AmortizedGuide
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal

D, HIDDEN, K = 784, 200, 50
TRAINED, BATCH, EPSILON, BETAS, STAGES, SEED = 59600, 20, 1e-4, (0.99, 0.999), 8, 0
EPOCHS = sum(3**stage for stage in range(STAGES))
WEIGHTS = 5000
PUBLISHED = {
    ("VAE", 1): -86.76,
    ("VAE", 5): -86.47,
    ("VAE", 50): -86.35,
    ("IWAE", 1): -86.76,
    ("IWAE", 5): -85.54,
    ("IWAE", 50): -84.78,
}
SOURCE = "Burda et al. (2015), table 1"


def perceptron(sizes: Sequence[int]) -> list[nn.Module]:
    """Layers with tanh, begun as Glorot & Bengio say."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [glorot(before, after), nn.Tanh()]
    return layers


def glorot(before: int, after: int) -> nn.Linear:
    """A layer whose bias is zero."""
    layer = nn.Linear(before, after)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Posterior(nn.Module):
    """q(z|x), a normal whose scales are exponentials."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*perceptron([D, HIDDEN, HIDDEN]))
        self.location, self.log_scale = glorot(HIDDEN, K), glorot(HIDDEN, K)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of z given x."""
        hidden = self.body(x)
        return dist.Normal(self.location(hidden), self.log_scale(hidden).exp()).to_event(1)


def pair(x: Tensor) -> pv.VAE:
    """Tanh perceptrons 784-200-200-50 and back; the last bias is that of the training mean."""
    torch.manual_seed(SEED)
    last = glorot(HIDDEN, D)
    with torch.no_grad():
        last.bias.copy_(x.mean(0).clamp(0.001, 0.999).logit())
    decoder = nn.Sequential(*perceptron([K, HIDDEN, HIDDEN]), last)
    return pv.VAE(LatentVariableModel(StandardNormal(K), Bernoulli(decoder)), AmortizedGuide(Posterior()))


def rate_of(epoch: int) -> float:
    """1e-4 times 10, 7.2, ... 1, for 1, 3, ... 2187 epochs."""
    stage, passed = 0, 0
    while epoch >= passed + 3**stage and stage < STAGES - 1:
        passed, stage = passed + 3**stage, stage + 1
    return 1e-4 * round(10 ** (1 - stage / (STAGES - 1)), 1)


def objective(bound: str, k: int) -> pv.objectives.RowObjective:
    """Of k draws."""
    if bound == "VAE":
        return pv.objectives.ELBO(k, analytic_kl=False)
    return pv.objectives.IWAE(k)


def main(run: Run, device: str | None = None) -> None:
    """Train all six, and estimate log p(x) of the test images, binarized once."""
    if device is None and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: IWAE's 3280 epochs were left out.")
    arrays = data.archive("mnist.npz")
    grey = {part: torch.as_tensor(arrays[f"x_{part}"]).flatten(1).float() / 255 for part in ("train", "test")}
    x, test = grey["train"][:TRAINED], grey["test"].bernoulli(generator=torch.Generator().manual_seed(0))
    figures: list[Figure] = []
    for (bound, k), published in PUBLISHED.items():
        vae = pair(x).to(device or "cuda")
        history = run.fit(
            f"iwae_{bound}_{k}",
            vae,
            x,
            epochs=EPOCHS,
            every=10,
            batch_size=BATCH,
            transform=torch.bernoulli,
            objective=objective(bound, k),
            optimizer=lambda p: torch.optim.Adam(
                p, lr=rate_of(0), betas=BETAS, eps=EPSILON / BATCH, fused=True
            ),
            scheduler=lambda adam: torch.optim.lr_scheduler.LambdaLR(adam, lambda e: rate_of(e) / rate_of(0)),
            seed=SEED,
        )
        found = pv.log_marginal(vae, test, num_samples=WEIGHTS, seed=SEED)
        figures.append(
            Figure(
                f"log p(x), nats, {bound}, k = {k}",
                float(found.log_marginal.mean()),
                float(found.log_marginal.std()) / len(test) ** 0.5,
                "se over test images",
                published,
                math.nan,
                SOURCE,
                done(history, EPOCHS),
                float(history["seconds"].sum()),
                higher_is_better=True,
            )
        )
        write("iwae", "MNIST binarized afresh, IWAE", figures, SETTINGS, "", thinned(history))


SETTINGS = {
    "data": f"MNIST, {TRAINED} training images binarized afresh in each batch, 10000 test images binarized once",
    "networks": f"tanh {D}-{HIDDEN}-{HIDDEN}-({K}, {K}) and back, scales by exp",
    "optimizer": f"Adam, betas {BETAS}, epsilon {EPSILON:g} of a minibatch's sum, batches of {BATCH}, {EPOCHS} epochs",
    "evaluation": f"{WEIGHTS} draws of the guide",
    "seed": SEED,
}
