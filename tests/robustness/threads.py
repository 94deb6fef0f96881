"""Evaluations and trainings in threads against the same in a row.

Run as `python -m tests.robustness.threads EVALUATIONS TRAININGS`; prints how many there were, and fails where one
differs.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyro.poutine.runtime
import torch

import pyrovae as pv
from tests.pairs import binary_rows, composed

X = binary_rows(20)
THREADS = 6


@contextmanager
def eager_switching():
    """Threads take over from each other as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(work, jobs):
    with eager_switching(), ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, jobs))


def pairs_made(number):
    torch.manual_seed(0)
    return [composed() for _ in range(number)]


def evaluated(vae, seed):
    if seed % 3 == 0:
        return pv.log_marginal(vae, X, num_samples=5, seed=seed).log_marginal
    if seed % 3 == 1:
        return vae.sample_posterior(X, num_samples=2, seed=seed)["z"]
    return pv.elbo(vae, X, num_samples=3, seed=seed).elbo


def trained(vae, seed):
    history = pv.fit(vae, X, epochs=2, batch_size=8, seed=seed, validation=X, progress=False)
    weights = [p.detach().double().flatten() for p in vae.parameters()]
    return torch.cat([*weights, torch.tensor(history["elbo_valid"])])


def check_evaluations(number):
    """The first ones inspect the pairs."""
    alone, together = pairs_made(2), pairs_made(2)
    before = torch.get_rng_state()
    found = in_threads(lambda job: evaluated(together[job % 2], job), range(number))
    assert all(torch.equal(f, evaluated(alone[job % 2], job)) for job, f in enumerate(found))
    assert all(module.training for vae in together for module in vae.modules())
    assert not pyro.poutine.runtime._PYRO_STACK
    assert torch.equal(torch.get_rng_state(), before)


def check_trainings(number):
    alone, together = pairs_made(number), pairs_made(number)
    found = in_threads(lambda job: trained(together[job], job), range(number))
    assert all(torch.equal(f, trained(alone[job], job)) for job, f in enumerate(found))


if __name__ == "__main__":
    evaluations, trainings = map(int, sys.argv[1:])
    check_evaluations(evaluations)
    check_trainings(trainings)
    print(evaluations, trainings)
