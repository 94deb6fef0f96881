"""What rows lack, downstream: every figure, picture and file is of what they have."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from tests.components import MODELS

NAN = math.nan


def lacking(N=60):
    """Rows of four numbers: a third lack one, a fifth two."""
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    x[::3, 1] = NAN
    x[1::5, 2:] = NAN
    return x


def composed():
    torch.manual_seed(0)
    likelihood = pv.models.Normal(pv.nn.MLP(2, 4, [16]), scale=pv.nn.PositiveParameter(0.7))
    encoder = pv.guides.DiagonalNormal(pv.nn.MissingAsZero(pv.nn.MLP(8, (2, 2), [16])))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), likelihood)
    return pv.VAE(model, pv.guides.AmortizedGuide(encoder))


def two():
    torch.manual_seed(0)
    return pv.VAE(*MODELS["ProductOfExperts, two modalities"].make())


CASES = {
    "entries": (composed, lambda: (lacking(),)),
    "modalities": (two, lambda: MODELS["ProductOfExperts, two modalities"].data(60)),
}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def trained():
    found = {}
    for case, (make, data) in CASES.items():
        vae, rows = make(), data()
        history = pv.fit(vae, rows, epochs=3, batch_size=20, seed=0, progress=False, validation=rows)
        found[case] = vae, rows, history
    return found


@every_case
def test_histories_have_the_elbo_of_what_is_there(trained, case):
    vae, rows, history = trained[case]
    assert history.notna().all().all()
    found = pv.elbo(vae, *rows, num_samples=200, seed=0)
    assert float(found.elbo.mean()) == pytest.approx(history["elbo_valid"].iloc[-1], abs=0.5)
    assert list(found.to_frame().columns) == ["elbo", "reconstruction", "rate"]


def test_a_latent_of_what_no_row_has_is_not_active():
    """z_2 is read by the last columns alone: where rows lack them it has no rate, and its mean stays put."""

    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = torch.stack([z[..., 0], z[..., 0], z[..., 1], z[..., 1]], -1)
                pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            pairs = x.unflatten(-1, (2, 2))
            precision = 1 + 4 * (~pairs.isnan()).sum(-1)
            with pyro.plate("rows", len(x)):
                mean = 4 * pairs.nan_to_num().sum(-1) / precision
                pyro.sample("z", dist.Normal(mean, precision.rsqrt()).to_event(1))

    torch.manual_seed(0)
    x = torch.randn(300, 2).repeat_interleave(2, -1) + 0.5 * torch.randn(300, 4)
    vae = pv.VAE(Model(), Guide())
    assert pv.diagnose(vae, x, num_samples=50, seed=0).rates["active"].tolist() == [True, True]
    x[:, 2:] = NAN
    page = pv.diagnose(vae, x, num_samples=50, seed=0)
    assert page.rates["active"].tolist() == [True, False]
    assert page.rates["rate"].iloc[1] == pytest.approx(0.0, abs=1e-6)
    assert page.reverse.passed  # on rows that lack the same


@every_case
def test_arviz_marks_what_is_absent(trained, case):
    vae, rows, _ = trained[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = pv.to_arviz(vae, *rows, num_samples=6, seed=0)
    for name, value in zip(tree["observed_data"], rows, strict=True):
        absent = value.isnan().numpy()
        assert np.array_equal(np.isnan(tree["observed_data"][name]), absent)
        for group in ("posterior_predictive", "prior_predictive"):
            replicated = np.asarray(tree[group][name])
            assert np.array_equal(np.isnan(replicated), np.broadcast_to(absent, replicated.shape))
    log_likelihood = sum(np.asarray(v) for v in tree["log_likelihood"].values())
    assert np.isfinite(log_likelihood).all()


@every_case
def test_a_report_shows_them(trained, case, tmp_path):
    vae, rows, history = trained[case]
    page = pv.plots.report(vae, *rows, history=history, num_samples=20, seed=0)
    text = str(page)
    assert "NaN" not in text.replace("NaN in", "")
    page.save(tmp_path / "page.html")


@every_case
def test_files_and_memory_maps_have_them(trained, case, tmp_path):
    vae, rows, _ = trained[case]
    vae.save(tmp_path / "vae")
    loaded = CASES[case][0]().load(tmp_path / "vae")
    torch.testing.assert_close(
        pv.log_marginal(loaded, *rows, num_samples=10, seed=0).log_marginal,
        pv.log_marginal(vae, *rows, num_samples=10, seed=0).log_marginal,
        rtol=0,
        atol=0,
    )
