"""The demo: its table, its files, its baselines."""

import arviz
import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import demo
from pyrovae.__main__ import main


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "deep" / "folder"
    before = torch.get_rng_state()
    assert main(["demo", "--out", str(out), "--epochs", "3"]) == 0
    assert torch.equal(before, torch.get_rng_state())
    return out


def test_files(output):
    assert sorted(file.name for file in output.iterdir()) == [
        "digits.nc",
        "history.csv",
        "report.html",
        "report.png",
        "vae.safetensors",
    ]
    assert len(pd.read_csv(output / "history.csv")) == 3
    assert (output / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert arviz.from_netcdf(str(output / "digits.nc")).posterior["z"].sizes["row"] == 100
    assert demo.build().load(output / "vae.safetensors").generate(2).shape == (2, 64)


def test_the_independent_pixel_baseline_is_its_closed_form():
    train, _, test, _ = demo.digits()
    single, mixture = (demo._bernoulli_mixture(train.numpy(), k, 0.5)(test.numpy()) for k in (1, 10))
    p = (train.sum(0).double() + 0.5) / (len(train) + 1)
    expected = torch.distributions.Bernoulli(p).log_prob(test.double()).sum(-1)
    np.testing.assert_allclose(single, expected, rtol=1e-6)
    assert mixture.mean() > expected.mean() + 4


def test_the_table_says_monte_carlo_error_and_bias_of_the_mean():
    x = demo.digits()[2][:30]
    table, marginal = demo.evaluate(demo.build(), {"test": x}, seed=0)
    row = table.loc["VAE, test"]
    assert row["Monte Carlo error"] == pytest.approx(float(marginal.variance.sum()) ** 0.5 / 30)
    assert row["errs low by at least"] == pytest.approx(-float(marginal.bias.mean()))
    assert row["Pareto k < 0.67"] == marginal.share_good
