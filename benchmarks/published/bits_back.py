"""The VAE of bits-back coding, on MNIST binarized afresh: bits a pixel.

Townsend, Bird & Barber, "Practical Lossless Compression with Latent Variables using Bits Back Coding" (2019),
https://arxiv.org/abs/1901.04866; networks and training as in https://github.com/bits-back/bits-back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import data
from benchmarks.published.figure import Figure, over_seeds, write
from benchmarks.published.training import Run, done
from pyrovae.guides import AmortizedGuide
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal
from pyrovae.nn import MLP

D, HIDDEN, K = 784, 100, 40
EPOCHS, BATCH, RATE = 20, 100, 1e-3
SEEDS, DRAWS = (0, 1, 2), 50
PUBLISHED = 0.19409
SOURCE = "the authors' code as it runs; 0.19 in the paper, table 2"


class Posterior(nn.Module):
    """q(z|x), a normal whose scales are exponentials."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP(D, (K, K), [HIDDEN])

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """The distribution of z given x."""
        location, log_scale = self.network(x)
        return dist.Normal(location, log_scale.exp()).to_event(1)


def pair() -> pv.VAE:
    """Perceptrons 784-100-40 and back."""
    model = LatentVariableModel(StandardNormal(K), Bernoulli(MLP(K, D, [HIDDEN])))
    return pv.VAE(model, AmortizedGuide(Posterior()))


def grey(part: str) -> Tensor:
    """Grey values within [0, 1], [N, 784]."""
    return torch.as_tensor(data.archive("mnist.npz")[f"x_{part}"]).flatten(1).float() / 255


@torch.no_grad()
def at_the_mean(vae: pv.VAE, x: Tensor) -> Tensor:
    """log p(x,z) - log q(z|x) at the mean z of q(z|x), [N]: what the authors' code prints of test images."""
    q = vae.guide.posterior(x)
    z = q.base_dist.loc
    joint = vae.model.likelihood(z).log_prob(x) + vae.model.prior().log_prob(z)
    return joint - q.log_prob(z)


def bits(log_density: Tensor) -> float:
    """A pixel."""
    return -float(log_density.double().mean()) / D / math.log(2)


def main(run: Run, seeds: Sequence[int] = SEEDS) -> None:
    """Train, and write the bits."""
    train = grey("train")
    test = torch.bernoulli(grey("test"), generator=torch.Generator().manual_seed(0))
    kinds = ("bits a pixel, bound at the posterior's mean, as in the code", "bits a pixel, ELBO")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    seconds = 0.0
    for seed in seeds[: run.seeds]:
        torch.manual_seed(seed)
        vae = pair()
        history = run.fit(
            f"bits_back_{seed}",
            vae,
            train,
            epochs=EPOCHS,
            batch_size=BATCH,
            transform=torch.bernoulli,
            objective=pv.objectives.ELBO(analytic_kl=False),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATE, fused=True),
            seed=seed,
        )
        found[kinds[0]].append(bits(at_the_mean(vae, test)))
        found[kinds[1]].append(bits(pv.elbo(vae, test, num_samples=DRAWS, seed=seed).elbo))
        seconds += float(history["seconds"].sum())
        figures = []
        for kind in kinds:
            mean, spread = over_seeds(found[kind])
            of = f"sd of {len(found[kind])} seeds" if len(found[kind]) > 1 else ""
            trained, taken = done(history, EPOCHS), seconds / len(found[kind])
            figures.append(Figure(kind, mean, spread, of, PUBLISHED, math.nan, SOURCE, trained, taken))
        write("bits_back", "Bits-back's VAE, MNIST binarized afresh", figures, SETTINGS, FINDINGS, history)


FINDINGS = (
    "Test images are binarized once. The authors' code evaluates its bound at the mean of q(z|x), where it is no "
    "expectation; the ELBO beside it averages over draws."
)
SETTINGS = {
    "data": "MNIST, 60000 training images binarized afresh in each batch, 10000 test images",
    "networks": f"{D}-{HIDDEN}-({K}, {K}) and {K}-{HIDDEN}-{D}, ReLU, scales by exp",
    "optimizer": f"Adam, {RATE:g}, batches of {BATCH}, {EPOCHS} epochs",
    "evaluation": f"the whole test set, {DRAWS} draws an image",
    "seeds": "0 and on",
}
