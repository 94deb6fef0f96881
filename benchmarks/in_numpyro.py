"""The perceptrons of the training benchmark in NumPyro, compiled by XLA: run by a Python that has NumPyro.

`python -m benchmarks.in_numpyro DATA BATCH HIDDEN K RATE` reads rows from the file DATA (.npy), says "ready" once
everything is compiled, and for each line on its input trains one epoch and prints its seconds and its mean loss.
`benchmarks.rivals` starts it. It imports nothing of pyrovae, which need not be installed beside NumPyro.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def made(
    rows: np.ndarray, batch: int, hidden: int, latent: int, rate: float
) -> Callable[[], tuple[float, float]]:
    """A function that trains for an epoch; shuffling, gathering and all steps are one compiled call."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.infer import SVI, Trace_ELBO

    size = rows.shape[1]
    relu = stax.Dense(hidden), stax.Relu
    encoder = stax.serial(*relu, stax.FanOut(2), stax.parallel(stax.Dense(latent), stax.Dense(latent)))
    decoder = stax.serial(*relu, stax.Dense(size))

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder, (len(x), latent))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([latent]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", encoder, (len(x), size))
        location, raw = encode(x)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("z", dist.Normal(location, jax.nn.softplus(raw) + 1e-6).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO())
    data, steps = jnp.asarray(rows), len(rows) // batch

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        places = jax.random.permutation(key, len(data))[: steps * batch].reshape(steps, batch)
        state, losses = jax.lax.scan(lambda carried, some: svi.update(carried, data[some]), state, places)
        return state, losses.sum() / (steps * batch)

    held = {"state": svi.init(jax.random.PRNGKey(0), data[:batch]), "key": jax.random.PRNGKey(1)}

    def train() -> tuple[float, float]:
        held["key"], key = jax.random.split(held["key"])
        started = time.perf_counter()
        held["state"], loss = epoch(held["state"], key)
        loss.block_until_ready()
        return time.perf_counter() - started, float(loss)

    return train


def main() -> None:
    """Serve epochs."""
    path, *settings, rate = sys.argv[1:]
    batch, hidden, latent = map(int, settings)
    train = made(np.load(path), batch, hidden, latent, float(rate))
    train()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*train(), flush=True)


if __name__ == "__main__":
    main()
