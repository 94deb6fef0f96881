"""Two gloo processes train what one process trains; killed and resumed; under lightning-fabric and torchrun."""

import subprocess
import sys

import numpy as np
import pyro
import pyro.contrib.gp
import pytest
import torch

import pyrovae as pv
from pyrovae.training.batches import Share
from pyrovae.training.processes import Processes
from tests.pairs import composed
from tests.training.together import BATCH, EPOCHS, N, data, noiseless

pytest.importorskip("lightning_fabric")
KINDS = {
    "traced": {},
    "plain": {"compile": False},
    "float64": {"dtype": torch.float64, "compile": False},
    "holes": {"holes": True},
    "above": {"above": True},
}


MIXING = [
    pv.objectives.ELBO(free_bits=pv.objectives.FreeBits(0.1)),
    pyro.infer.Trace_MMD(kernel=pyro.contrib.gp.kernels.RBF(2)),
]


@pytest.mark.parametrize("objective", MIXING, ids=lambda o: type(o).__name__)
def test_objectives_that_need_whole_batches_are_refused(monkeypatch, objective):
    class Two(Processes):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.share = Share(0, 2)

    monkeypatch.setattr("pyrovae.training.settings.Processes", Two)
    with pytest.raises(ValueError, match="each of 2 processes sees its own part of a batch alone"):
        pv.fit(composed(), data()[0], objective=objective, epochs=1, progress=False)


def test_processes_start_where_the_vae_is(monkeypatch):
    """And not where lightning-fabric would like to."""
    asked = []

    class Fabric:
        def __init__(self, **settings):
            asked.append(settings["accelerator"])
            raise RuntimeError

    monkeypatch.setattr("lightning_fabric.Fabric", Fabric)
    with pytest.raises(RuntimeError):
        pv.fit(composed(), data()[0], devices=2, progress=False)
    assert asked == ["cpu"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes wrote: of a run that ends in a kill, and of one by torchrun that goes on from it."""
    folder = tmp_path_factory.mktemp("together")
    begun = run([sys.executable, "-m", "tests.training.together", str(folder), "begin"])
    assert begun.returncode != 0
    assert "process 0 of 2 (counted from 0) has lost another one" in begun.stderr
    assert (folder / "training.ckpt").exists(), begun.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    resumed = run([*torchrun, "-m", "tests.training.together", str(folder), "resume"])
    assert resumed.returncode == 0, resumed.stderr
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_one_process_on_whole_batches(found, kind):
    alone, ranks = noiseless(**KINDS[kind]), [found[f"{kind}-{rank}"] for rank in (0, 1)]
    steps = EPOCHS * -(-N // BATCH)
    assert alone["gradients"].shape[0] == steps
    assert str(ranks[0]["engine"]) == alone["engine"]
    for rank in ranks:
        scale = np.abs(alone["gradients"]).max()
        np.testing.assert_allclose(rank["gradients"], alone["gradients"], rtol=1e-6, atol=1e-6 * scale)
        np.testing.assert_allclose(rank["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rank["history"], alone["history"], rtol=1e-5)
    assert np.array_equal(ranks[0]["weights"], ranks[1]["weights"])
    assert np.array_equal(ranks[0]["history"], ranks[1]["history"], equal_nan=True)


def test_each_row_is_seen_once_an_epoch(found):
    parts = [found[f"traced-{rank}"]["rows"] for rank in (0, 1)]
    assert [len(part) for part in parts] == [EPOCHS * 21, EPOCHS * 20]
    for epoch in range(EPOCHS):
        rows = np.concatenate([part[len(part) // EPOCHS * epoch :][: len(part) // EPOCHS] for part in parts])
        assert sorted(map(str, rows.tolist())) == sorted(map(str, data()[0].tolist()))


def test_what_differs_between_processes_is_made_alike(found):
    first, second = (found[f"whole-{rank}"] for rank in (0, 1))
    assert np.array_equal(first["weights"], second["weights"])
    assert np.array_equal(first["history"], second["history"], equal_nan=True)


def test_a_batch_that_one_process_finds_bad_is_left_out_by_both(found):
    first, second = (found[f"skipping-{rank}"] for rank in (0, 1))
    assert int(first["skipped"]) == int(second["skipped"]) == 2
    assert np.array_equal(first["weights"], second["weights"])
    assert np.array_equal(first["statistics"], second["statistics"])
    assert np.isfinite(first["statistics"]).all()


def test_killed_and_resumed_by_torchrun_ends_where_the_whole_training_did(found):
    for rank in (0, 1):
        whole, resumed = found[f"whole-{rank}"], found[f"resumed-{rank}"]
        assert np.array_equal(whole["weights"], resumed["weights"])
        assert np.array_equal(whole["history"], resumed["history"], equal_nan=True)
