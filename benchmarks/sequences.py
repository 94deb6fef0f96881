"""Tiny Shakespeare: what the latent carries beside an autoregressive decoder, and beside weaker ones.

`PYROVAE_DATA=folder python -m benchmarks.sequences`
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

import pyrovae as pv
from benchmarks import data, report
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import AutoregressiveCategorical, Categorical, LatentVariableModel, StandardNormal
from pyrovae.nn import MLP, AutoregressiveGRU

STEPS, K = 32, 32
STATE, WEAK, EMBEDDING, HIDDEN = 128, 12, 32, 256
BATCH, RATE, EPOCHS = 128, 2e-3, 8
WARM_UP, FLOOR = 4, 5.0
SEED, SAMPLES = 0, 10

DECODERS: dict[str, Callable[[int], nn.Module]] = {
    "autoregressive (GRU)": lambda V: AutoregressiveCategorical(
        AutoregressiveGRU(K, V, hidden_size=STATE, embedding_size=EMBEDDING), STEPS
    ),
    "autoregressive, weak (GRU)": lambda V: AutoregressiveCategorical(
        AutoregressiveGRU(K, V, hidden_size=WEAK, embedding_size=WEAK), STEPS
    ),
    "independent given z (MLP)": lambda V: Categorical(MLP(K, STEPS * V, [HIDDEN]), num_options=V),
}


# Cures of the collapse, with the first decoder: a floor of nats a row, or a rate that costs nothing at first.
OBJECTIVES: dict[str, Callable[[], pv.objectives.ELBO]] = {
    "ELBO": pv.objectives.ELBO,
    f"warm-up over {WARM_UP} epochs": lambda: pv.objectives.ELBO(
        beta=pv.objectives.LinearWarmUp(epochs=WARM_UP)
    ),
    f"free bits, {FLOOR:g} nats": lambda: pv.objectives.ELBO(free_bits=pv.objectives.FreeBits(FLOOR)),
}
FIRST = next(iter(DECODERS))
RUNS = [(decoder, "ELBO") for decoder in DECODERS] + [
    (FIRST, objective) for objective in OBJECTIVES if objective != "ELBO"
]


def build(decoder: Callable[[int], nn.Module], num_symbols: int) -> pv.VAE:
    """The same prior and encoder whatever the decoder."""
    encoder = nn.Sequential(
        nn.Embedding(num_symbols, EMBEDDING), nn.Flatten(-2), MLP(STEPS * EMBEDDING, (K, K), [HIDDEN])
    )
    model = LatentVariableModel(StandardNormal(K), decoder(num_symbols))
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(encoder)))


def main() -> None:
    """Train and evaluate a VAE with each decoder, and the first with each cure."""
    train, test, num_symbols = data.shakespeare(STEPS)
    bits = 1 / (math.log(2) * STEPS)
    table: list[dict[str, Any]] = []
    for name, objective in RUNS:
        torch.manual_seed(SEED)
        vae = build(DECODERS[name], num_symbols)
        history = pv.fit(
            vae,
            train,
            epochs=EPOCHS,
            batch_size=BATCH,
            objective=OBJECTIVES[objective](),
            seed=SEED,
            progress=False,
            optimizer=lambda p: torch.optim.Adam(p, lr=RATE),
        )
        bound = pv.elbo(vae, test, num_samples=SAMPLES, seed=SEED)
        table.append(
            {
                "decoder": name,
                "objective": objective,
                "bits per character": -float(bound.elbo.mean()) * bits,
                "its standard error": float(bound.elbo.std()) * bits / len(test) ** 0.5,
                "of which rate": float(bound.rate.mean()) * bits,
                "rate, nats per row": float(bound.rate.mean()),
                "parameters": sum(p.numel() for p in vae.parameters()),
                "training seconds": round(float(history.seconds.sum())),
            }
        )
        report.write("sequences", "Decoders of tiny Shakespeare", pd.DataFrame(table), SETTINGS, NOTE)


NOTE = (
    "Bits per character are the negative ELBO, an upper bound, lower is better; the standard error is over test rows. "
    "A rate near 0 is a collapsed latent: the decoder does without it. Each row starts anew, without the text "
    "before it."
)
SETTINGS = {
    "data": f"tiny Shakespeare (Karpathy 2015), rows of {STEPS} characters, 65 symbols, test: its last 5%",
    "prior": f"standard normal, K = {K}",
    "encoder": f"embedding {EMBEDDING}, MLP {STEPS * EMBEDDING}-{HIDDEN}-({K}, {K}) of all characters, diagonal normal",
    "autoregressive": f"embedding {EMBEDDING}, GRU {STATE}, z sets the first state and enters each step; no dropout",
    "autoregressive, weak": f"the same with embedding {WEAK} and GRU {WEAK}",
    "independent": f"MLP {K}-{HIDDEN}-{STEPS} * 65, ReLU: characters independent given z",
    "objective": "one sample, the rate in closed form; warm-up from 0; free bits for the latents of a row together",
    "optimizer": f"Adam, {RATE:g}",
    "batch": BATCH,
    "epochs": EPOCHS,
    "seed": SEED,
    "samples": f"{SAMPLES} a row",
    "threads": 1,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
