"""ProdLDA on 20 Newsgroups: a topic model whose words are a product of experts.

Srivastava & Sutton, "Autoencoding Variational Inference for Topic Models" (2017), https://arxiv.org/abs/1703.01488.
The recipe and the figure are those of the PyTorch port of the authors' code that names both,
https://github.com/hyqneuron/pytorch-avitm: the same corpus and networks, a prior variance of 0.995 and dropout of 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import data
from benchmarks.published.figure import Figure, over_seeds, write
from benchmarks.published.training import Run, done
from pyrovae.models.distributions import Multinomial

WORDS, HIDDEN, TOPICS, VARIANCE, DROPOUT = 1995, 100, 50, 0.995, 0.2
EPOCHS, BATCH, RATE, BETAS = 80, 200, 2e-3, (0.99, 0.999)
SEEDS = (0, 1, 2)
PERPLEXITY, LOSS = 1152.8633604900842, 614.537361547
SOURCE = "https://github.com/hyqneuron/pytorch-avitm, README"


def shift(size: int) -> nn.BatchNorm1d:
    """Batch normalization with a learned shift and no scale."""
    norm = nn.BatchNorm1d(size)
    norm.weight.requires_grad_(False)
    return norm


class Words(nn.Module):
    """z ~ N(0, 0.995 I_50); a document's words are drawn from softmax(norm(W softmax(z)))."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = nn.Linear(TOPICS, WORDS)
        nn.init.uniform_(self.topics.weight)
        self.norm, self.dropout = shift(WORDS), nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> None:
        """The generative story for documents x [B,D], counts of words."""
        with pyro.plate("documents", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(TOPICS), VARIANCE**0.5).to_event(1))
            logits = self.norm(self.topics(self.dropout(z.softmax(-1))))
            pyro.sample("x", Multinomial(logits, x.sum(-1)), obs=x)


class Encoder(nn.Module):
    """A normal z, whose location and log-variance are normalized over the batch."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Linear(WORDS, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, HIDDEN), nn.Softplus())
        self.body = nn.Sequential(*layers, nn.Dropout(DROPOUT))
        self.location = nn.Sequential(nn.Linear(HIDDEN, TOPICS), shift(TOPICS))
        self.log_variance = nn.Sequential(nn.Linear(HIDDEN, TOPICS), shift(TOPICS))

    def forward(self, x: Tensor) -> None:
        """q(z|x)."""
        hidden = self.body(x)
        scale = (0.5 * self.log_variance(hidden)).exp()
        with pyro.plate("documents", len(x)):
            pyro.sample("z", dist.Normal(self.location(hidden), scale).to_event(1))


def documents(part: str) -> Tensor:
    """Counts of words [N,D] of the documents that have any."""
    arrays = data.archive("newsgroups20_counts.npz")
    shape = (len(arrays[f"{part}_indptr"]) - 1, WORDS)
    parts = (arrays[f"{part}_{name}"] for name in ("counts", "indices", "indptr"))
    counts = scipy.sparse.csr_matrix(tuple(parts), shape=shape).toarray().astype(np.float32)
    return torch.as_tensor(counts[counts.sum(1) > 0])


def log_orders(x: Tensor) -> Tensor:
    """Log of the number of orders of a document's words, [N]: no part of what is published."""
    return (x.sum(-1).double() + 1).lgamma() - (x.double() + 1).lgamma().sum(-1)


def perplexity(log_density: Tensor, x: Tensor) -> float:
    """As in the authors' code: exp of the mean over documents of a bound by word, with no regard to length."""
    return float((-(log_density - log_orders(x)) / x.sum(-1)).mean().exp())


def main(run: Run, seeds: Sequence[int] = SEEDS) -> None:
    """Train, and write the perplexities."""
    train, test = documents("train"), documents("test")
    found: dict[str, list[float]] = {"perplexity": [], "loss": []}
    seconds, curve = 0.0, None
    for seed in seeds[: run.seeds]:
        torch.manual_seed(seed)
        vae = pv.VAE(Words(), Encoder())
        history = run.fit(
            f"prodlda_{seed}",
            vae,
            train,
            epochs=EPOCHS,
            every=20,
            batch_size=BATCH,
            objective=pv.objectives.ELBO(),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATE, betas=BETAS),
            seed=seed,
        )
        found["perplexity"].append(perplexity(pv.elbo(vae, test, num_samples=1, seed=seed).elbo, test))
        at = min(76, len(history)) - 1  # the port's epoch 75: it counts from 0
        found["loss"].append(float(history["loss"].iloc[at] + log_orders(train).mean()))
        seconds, curve = seconds + float(history["seconds"].sum()), history
        trained = done(history, EPOCHS)
        figures = [
            line("perplexity, test documents", found["perplexity"], PERPLEXITY, trained, seconds),
            line("loss of epoch 75, training documents, nats", found["loss"], LOSS, trained, seconds),
        ]
        write("prodlda", "ProdLDA, 20 Newsgroups", figures, SETTINGS, FINDINGS, curve)


def line(what: str, values: Sequence[float], published: float, trained: str, seconds: float) -> Figure:
    """A figure over seeds."""
    mean, spread = over_seeds(values)
    of = f"sd of {len(values)} seeds" if len(values) > 1 else ""
    return Figure(what, mean, spread, of, published, float("nan"), SOURCE, trained, seconds / len(values))


FINDINGS = (
    "Perplexity by the definition of the authors' code: exp of the mean over documents of the negative bound by word, "
    "one draw a document, so that short documents weigh as much as long ones."
)
SETTINGS = {
    "data": "11258 training and 7487 test documents, 1995 words (the authors' corpus)",
    "model": f"z [{TOPICS}], prior variance {VARIANCE}, words softmax(norm(W softmax(z))), dropout {DROPOUT} of topics",
    "guide": f"softplus {WORDS}-{HIDDEN}-{HIDDEN}-({TOPICS}, {TOPICS}), batch-normalized heads, dropout {DROPOUT}",
    "optimizer": f"Adam, {RATE:g}, beta1 {BETAS[0]}, batches of {BATCH}, {EPOCHS} epochs",
    "seeds": "0 and on",
}
