"""Threads that evaluate and fit at once: the numbers of one thread, and words for one that waits in vain."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import pyrovae as pv
from pyrovae import turn
from pyrovae.callbacks import Callback
from pyrovae.turn import TURN, Turn
from tests.robustness.threads import (
    X,
    check_evaluations,
    check_trainings,
    evaluated,
    in_threads,
    pairs_made,
    trained,
)
from tests.shared_models import offsets
from tests.test_verbs import STEP_BY_STEP, VERBS


def test_evaluations_in_threads_are_those_in_a_row():
    check_evaluations(60)


def test_trainings_in_threads_are_those_in_a_row():
    check_trainings(8)


def test_draws_without_a_seed_leave_those_with_one_alone():
    """They go on from torch's random state as it is between turns."""
    (vae,), jobs = pairs_made(1), range(40)
    found = in_threads(lambda job: pv.elbo(vae, X, seed=None if job % 2 else job).elbo, jobs)
    assert all(torch.equal(found[job], pv.elbo(vae, X, seed=job).elbo) for job in jobs[::2])
    assert not any(torch.equal(found[1], found[job]) for job in jobs[3::2])


def test_coroutines_hand_work_to_threads():
    first, second = pairs_made(2)

    async def both():
        return await asyncio.gather(
            asyncio.to_thread(trained, first, 0), *(asyncio.to_thread(evaluated, second, s) for s in range(6))
        )

    weights, *found = asyncio.run(both())
    assert torch.equal(weights, trained(pairs_made(1)[0], 0))
    assert all(torch.equal(f, evaluated(second, seed)) for seed, f in enumerate(found))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in STEP_BY_STEP])
def test_networks_run_in_turns(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae = pv.VAE(offsets, example=X) if verb == "shared_check" else pairs_made(1)[0]
    vae.rows(X)
    runs = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: runs.append(TURN._lock._is_owned())
    )
    try:
        VERBS[verb](vae, X)
    finally:
        hook.remove()
    assert runs
    assert all(runs)
    assert TURN._depth == 0


def test_a_thread_that_waits_long_says_for_whom(monkeypatch):
    monkeypatch.setattr(turn, "PATIENCE", 0.1)
    one, holds, may_end = Turn(), threading.Event(), threading.Event()

    def hold():
        with one:
            holds.set()
            may_end.wait()

    holder = threading.Thread(target=hold, name="training")
    holder.start()
    holds.wait()
    threading.Timer(0.5, may_end.set).start()
    with pytest.warns(UserWarning, match=r"has waited 0\.1 s for thread 'training' and waits on"), one:
        holder.join()
    assert one._depth == 0


def test_a_callback_that_waits_for_another_thread_is_told(monkeypatch):
    monkeypatch.setattr(turn, "PATIENCE", 0.1)
    vae = pairs_made(1)[0]

    class Handing(Callback):
        def on_epoch(self, training, row):
            with ThreadPoolExecutor(1) as threads:
                threads.submit(pv.elbo, vae, X).result()  # the warning is an error here

    with pytest.raises(UserWarning, match="let the callback do the work itself"):
        pv.fit(vae, X, epochs=1, progress=False, callbacks=[Handing()])


FORKED_AMID = """
import os, threading
import torch, pyrovae as pv
from pyrovae.turn import TURN
from tests.pairs import binary_rows, composed
vae, x = composed(), binary_rows(10)
if {elsewhere}:
    holds, may_end = threading.Event(), threading.Event()
    def hold():
        with TURN:
            holds.set()
            may_end.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
else:
    TURN.__enter__()
pid = os.fork()
if pid == 0:
    try:
        print(len(pv.elbo(vae, x).elbo), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
if {elsewhere}:
    may_end.set()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
@pytest.mark.parametrize(
    ("elsewhere", "words"), [(False, "10"), (True, "forked while another thread ran programs")]
)
def test_a_forked_process_goes_on_or_says_why_not(elsewhere, words):
    script = FORKED_AMID.format(elsewhere=elsewhere)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert words in done.stdout, done.stderr


QUIET = """
import multiprocessing, threading
import pyrovae as pv
from tests.pairs import binary_rows, composed
vae, x = composed(), binary_rows(10)
pv.fit(vae, x, epochs=1, progress=False)
pv.log_marginal(vae, x, num_samples=4)
pv.refine(vae, x, num_steps=2, progress=False)
print(threading.enumerate())
multiprocessing.set_start_method("forkserver")
"""


def test_without_a_progress_bar_no_thread_is_left_and_processes_may_start_as_they_like():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started") == 1, done.stdout  # the main one
