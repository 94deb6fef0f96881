"""Mistakes around a training, which are mended or refused in words that help."""

import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.__main__ import main
from pyrovae.files import remove_leftovers, write_atomically
from tests.pairs import PAIRS, binary_rows, composed
from tests.robustness.wrong_programs import X, guide_with, model_with, rows

X64 = binary_rows(20).double()


@pytest.mark.parametrize("name", ["composed", "tutorial"])
@pytest.mark.parametrize("as_array", [False, True])
def test_a_vae_goes_on_in_double_precision(name, as_array):
    """Of rows as tensors, and as arrays, whose numbers take the parameters' dtype."""
    vae, x = PAIRS[name][0](), binary_rows(20)
    pv.fit(vae, x, epochs=1, progress=False)
    single = pv.elbo(vae, x, num_samples=500, seed=0)
    vae.double()
    x64 = X64.numpy() if as_array else X64
    double = pv.elbo(vae, x64, num_samples=500, seed=0)
    error = (single.std_error**2 + double.std_error**2).mean().sqrt()
    assert float((single.elbo - double.elbo).mean().abs()) < 5 * float(error)
    pv.fit(vae, x64, epochs=1, progress=False)
    assert vae.encode(x64).dtype == torch.float64
    vae.float()
    assert len(pv.elbo(vae, x)) == 20


def test_a_loaded_vae_may_be_made_double_before_it_sees_rows(tmp_path):
    vae = composed()
    vae.rows(binary_rows(20))
    vae.save(tmp_path / "vae")
    assert len(pv.elbo(composed().load(tmp_path / "vae").double(), X64)) == 20


def test_tensors_that_a_program_makes_are_named_where_data_and_networks_agree():
    decoder = torch.nn.Linear(2, 3).double()

    def model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    with pytest.raises(
        TypeError, match=r"are torch.float64, and the program makes torch.float32 itself.*x.new_zeros"
    ):
        pv.elbo(pv.VAE(model), X.double())


GAMMA = model_with(lambda: dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
RIGHT_GUIDES = {
    "LogNormal": lambda x: dist.LogNormal(x[:, :2], 1.0).to_event(1),
    "Gamma": lambda x: dist.Gamma(x[:, :2].exp(), 1.0).to_event(1),
    "Exponential": lambda x: dist.Exponential(x[:, :2].exp()).to_event(1),
    "Uniform": lambda x: dist.Uniform(0 * x[:, :2], x[:, :2].exp()).to_event(1),
    "transformed": lambda x: dist.TransformedDistribution(
        dist.Normal(x[:, :2], 1.0), [dist.transforms.SoftplusTransform()]
    ).to_event(1),
    "masked": lambda x: dist.LogNormal(x[:, :2], 1.0).mask(x[:, :2] > -9).to_event(1),
}


@pytest.mark.parametrize("name", RIGHT_GUIDES)
def test_families_within_a_latents_support_are_let_pass(name):
    assert pv.elbo(pv.VAE(GAMMA, guide_with(RIGHT_GUIDES[name])), X).elbo.isfinite().all()


def test_whole_numbers_of_numpy_are_seeds_and_counts(tmp_path):
    histories = []
    for seed, count in ((3, 2), (np.int64(3), np.int32(2)), (np.uint8(3), np.uint64(2))):
        torch.manual_seed(0)
        vae, path = composed(), tmp_path / f"{type(seed).__name__}"
        given = {
            "epochs": count,
            "batch_size": np.int16(7),
            "seed": seed,
            "progress": False,
            "checkpoint": path,
        }
        histories.append(pv.fit(vae, binary_rows(20), **given).drop(columns="seconds"))
        assert (
            pv.fit(vae, binary_rows(20), **given, resume=True).drop(columns="seconds").equals(histories[-1])
        )
        assert torch.equal(vae.generate(3, seed=seed), vae.generate(3, seed=3))
        assert torch.equal(
            pv.elbo(vae, binary_rows(20), seed=seed).elbo, pv.elbo(vae, binary_rows(20), seed=3).elbo
        )
    assert histories[0].equals(histories[1])
    assert histories[0].equals(histories[2])


def test_fit_trains_where_gradients_are_off():
    weights = []
    for grad in (True, False):
        torch.manual_seed(0)
        vae = composed()
        with torch.set_grad_enabled(grad):
            pv.fit(vae, binary_rows(20), epochs=2, seed=0, progress=False)
            assert torch.is_grad_enabled() is grad
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*weights)


def test_only_folders_of_its_own_are_removed(tmp_path):
    path = tmp_path / "training.ckpt"
    for name in (".training.ckpt.settings", ".training.ckpt.12345678", "training.ckpt.pyrovae-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    mine = {folder.name for folder in tmp_path.iterdir()}

    def interrupted(temporary):
        temporary.write_text("half")
        (left,) = set(tmp_path.iterdir()) - {tmp_path / name for name in mine}
        left.rename(tmp_path / "kept for later")
        left.mkdir()  # as a process leaves it that is killed
        (left / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    pv.fit(composed(), binary_rows(20), epochs=1, checkpoint=path, progress=False)
    remove_leftovers(path)
    assert {f.name for f in tmp_path.iterdir()} - {"training.ckpt", "kept for later"} == mine
    assert (tmp_path / ".training.ckpt.settings" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["demo", "--epochs", "0"], "whole number of at least 1"),
        (["demo", "--epochs", "many"], "whole number of at least 1"),
        (["demo", "--out", __file__], "is a file, and a folder is expected"),
        (["demo", "--out", f"{__file__}/inside"], "is a file, and a folder is expected"),
        (["train"], "invalid choice"),
        ([], "required: command"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert "Traceback" not in error


LONG_VALIDATION = """
import os, signal, sys, threading, time, torch
import pyrovae as pv
import pyrovae.training.validation as validation
from tests.pairs import binary_rows, composed

signal.signal(signal.SIGINT, signal.default_int_handler)
elbo_of, pause = validation.elbo_of, [0.5]
def slow(*arguments):
    time.sleep(pause[0])
    if pause[0] and not hasattr(slow, "asked"):
        slow.asked = time.time()
        os.kill(os.getpid(), signal.SIGINT)
    return elbo_of(*arguments)
validation.elbo_of = slow
validation.ROWS_OF_A_PASS = 8

def train(**settings):
    torch.manual_seed(0)
    vae = composed()
    history = pv.fit(vae, binary_rows(45), epochs=2, batch_size=8, seed=0, progress=False, compile=False,
                     validation=binary_rows(800), **settings)
    return history.drop(columns="seconds"), torch.cat([p.detach().flatten() for p in vae.parameters()])

path = sys.argv[1]
history, _ = train(checkpoint=path)
assert time.time() - slow.asked < 5, "it takes 50 s to validate"
assert history.attrs["interrupted"] and len(history) == 0, history
pause[0] = 0
whole, weights = train()
again, found = train(checkpoint=path, resume=True)
assert again.equals(whole) and torch.equal(found, weights), (again, whole)
"""


def test_ctrl_c_is_heard_within_a_long_validation(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LONG_VALIDATION, str(tmp_path / "c")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
