"""What ArviZ sees: right numbers, names and shapes, and a file that it reads again."""

import re
from pathlib import Path

import arviz
import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.evidence.psis import pareto_k
from tests.components import MIXED_COLUMNS, MODELS, mixed_rows
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows

matplotlib.use("agg")
FIRST_GENERATION = int(arviz.__version__.split(".")[0]) < 1

GROUPS = [
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
]


def test_groups_dims_and_numbers(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=400, seed=0)
    assert set(GROUPS) == {
        str(g).strip("/") for g in (tree.groups() if callable(tree.groups) else tree.groups)
    } - {""}
    posterior, stats = tree.posterior, tree.sample_stats
    assert dict(posterior["z"].sizes) == {"chain": 1, "draw": 400, "row": 5, "z_dim_0": 2}
    assert dict(tree.posterior_predictive["x"].sizes) == {"chain": 1, "draw": 400, "row": 5, "x_dim_0": 3}
    assert dict(tree.log_likelihood["x"].sizes) == {"chain": 1, "draw": 400, "row": 5}
    assert tree.prior["z"].sizes == posterior["z"].sizes
    np.testing.assert_array_equal(tree.observed_data["x"], x)
    z = torch.as_tensor(posterior["z"].values[0])
    expected = (
        torch.distributions.Normal(z @ vae.model.W.T + vae.model.b, vae.model.scale).log_prob(x).sum(-1)
    )
    np.testing.assert_allclose(tree.log_likelihood["x"].values[0], expected.detach())
    weights = torch.as_tensor(stats["log_weight"].values[0])
    estimate = weights.logsumexp(0) - np.log(400)
    truth = vae.model.evidence().log_prob(x)
    error = (weights.softmax(0) - 1 / 400).square().sum(0).sqrt()
    assert bool(((estimate - truth).abs() < 5 * error).all())
    np.testing.assert_allclose(stats["khat"], pareto_k(weights))


def test_prior_and_predictive_draws_have_the_right_moments(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=4000, seed=0)
    prior = tree.prior["z"].values
    assert abs(prior.mean()) < 5 / np.sqrt(prior.size)
    assert prior.var() == pytest.approx(1, abs=5 * np.sqrt(2 / prior.size))
    evidence = vae.model.evidence()
    drawn = torch.as_tensor(tree.prior_predictive["x"].values).flatten(0, 2)
    deviation = (drawn.mean(0) - evidence.mean) / (evidence.variance / len(drawn)).sqrt()
    assert float(deviation.abs().max()) < 5
    predictive = tree.posterior_predictive["x"].values[0]
    z = tree.posterior["z"].values[0]
    residual = predictive - (z @ vae.model.W.detach().numpy().T + vae.model.b.detach().numpy())
    assert residual.std() == pytest.approx(vae.model.scale, rel=0.02)


def test_a_seed_decides_and_the_random_state_is_left(linear):
    vae, x = linear
    before = torch.get_rng_state()
    a, b = (pv.to_arviz(vae, x, num_samples=3, seed=1) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert a.prior_predictive.equals(b.prior_predictive)


@pytest.mark.parametrize("name", PAIRS)
def test_any_pair_to_a_file_and_back(name, tmp_path):
    make, context = PAIRS[name]
    tree = pv.to_arviz(make(), binary_rows(8), *context(8), num_samples=10, seed=0)
    path = str(tmp_path / "pair.nc")
    tree.to_netcdf(path)
    again = arviz.from_netcdf(path)
    for group in GROUPS:
        assert again[group].equals(tree[group])
    if name == "methods":
        np.testing.assert_array_equal(again["constant_data"]["context_1"], context(8)[0])


def test_absent_entries_are_nan():
    """What a table's rows lack is observed nowhere, and drawn nowhere."""
    (x,) = mixed_rows(300)
    vae = pv.VAE(*MODELS["MixedTableModel"].make())
    tree = pv.to_arviz(vae, x, num_samples=4, seed=0)
    for part, columns in enumerate(MIXED_COLUMNS):
        name, missing = f"x_{part}", x[:, columns].isnan().numpy()
        data = tree.observed_data[name].values
        np.testing.assert_array_equal(np.isnan(data), missing)
        np.testing.assert_array_equal(data[~missing], x[:, columns].numpy()[~missing])
        for group in ("posterior_predictive", "prior_predictive"):
            drawn = tree[group][name].values[0]
            np.testing.assert_array_equal(np.isnan(drawn), np.broadcast_to(missing, drawn.shape))


def test_whole_numbers_stay_where_nothing_is_absent():
    def make(masked):
        def model(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.poutine.mask(mask=x != 2 if masked else True):
                    logits = torch.stack([z, -z, 0 * z], -1)
                    pyro.sample("x", dist.Categorical(logits=logits), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

        return pv.VAE(model, guide)

    x = torch.arange(600) % 3
    whole, some = (pv.to_arviz(make(masked), x, num_samples=2, seed=0) for masked in (False, True))
    for group in ("observed_data", "prior_predictive", "posterior_predictive"):
        assert whole[group]["x"].dtype.kind == "i"
        assert some[group]["x"].dtype.kind == "f"
    np.testing.assert_array_equal(whole.observed_data["x"], x)
    np.testing.assert_array_equal(np.isnan(some.observed_data["x"]), x.numpy() == 2)
    for group in ("prior_predictive", "posterior_predictive"):  # the draws are the same ones
        kept = some[group]["x"].values[..., x.numpy() != 2]
        np.testing.assert_array_equal(kept, whole[group]["x"].values[..., x.numpy() != 2])


def test_padding_is_absent():
    vae = pv.VAE(*MODELS["DeepMarkovModel"].make())
    arguments = MODELS["DeepMarkovModel"].data(12)
    lengths = arguments[1]
    padding = torch.arange(arguments[0].shape[1]) >= lengths[:, None]
    assert padding.any()
    tree = pv.to_arviz(vae, *arguments, num_samples=3, seed=0)
    for group in ("observed_data", "prior_predictive", "posterior_predictive"):
        (name,) = tree[group].data_vars
        absent = np.isnan(tree[group][name].values)
        entries = padding[..., None] if absent.ndim - padding.dim() in (1, 3) else padding
        np.testing.assert_array_equal(absent, np.broadcast_to(entries, absent.shape))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ArviZ 0.23 beside newer pandas and matplotlib
class TestArvizsFunctions:
    def test_summary(self, linear):
        vae, x = linear
        tree = pv.to_arviz(vae, x, num_samples=200, seed=0)
        summary = arviz.summary(tree, var_names=["z"])
        assert len(summary) == 10
        exact = vae.encode(x).flatten()
        np.testing.assert_allclose(summary["mean"].astype(float), exact, atol=0.35)

    def test_plot_of_posterior_predictive_draws(self, linear):
        tree = pv.to_arviz(*linear, num_samples=50, seed=0)
        if FIRST_GENERATION:
            axes = np.ravel(arviz.plot_ppc(tree, num_pp_samples=10))
            assert len(axes[0].lines) > 10
        else:
            shown = arviz.plot_ppc_dist(tree, num_samples=10, backend="matplotlib")
            assert "observed_dist" in shown.viz.children or "observed_dist" in shown.viz

    def test_loo_is_log_marginal_with_exact_draws_of_a_weakly_informed_latent(self, tmp_path):
        # Leaving a row out leaves nothing that informs its latent but the prior: its LOO density is p(x).
        model = LinearGaussian(K=1, D=2, scale=4.0)
        vae, x, S = pv.VAE(model, ExactGuide(model)), model.data(30), 4000
        tree = pv.to_arviz(vae, x, num_samples=S, seed=0)
        result = arviz.loo(tree, pointwise=True)
        pointwise = np.asarray(result.loo_i if FIRST_GENERATION else result.elpd_i)
        khat = np.asarray(result.pareto_k)
        assert khat.max() < 0.7
        exact = model.evidence().log_prob(x).detach().numpy()
        ratio = -tree.log_likelihood["x"].values[0]
        ratio = np.exp(ratio - ratio.max(0))
        error = ratio.std(0) / ratio.mean(0) / np.sqrt(S)
        assert float(np.abs((pointwise - exact) / error).max()) < 5
        if FIRST_GENERATION:
            axes = arviz.plot_khat(result)
            assert len(axes.collections[0].get_offsets()) == 30
        else:
            assert arviz.plot_khat(result, backend="matplotlib") is not None

    def test_loo_of_a_wrong_guides_draws_is_wrong_though_rhat_of_its_parts_is_fine(self):
        model = LinearGaussian(K=1, D=2, scale=4.0)
        vae, x = pv.VAE(model, WideGuide(model, factor=0.3, shift=3.0)), model.data(30)
        tree = pv.to_arviz(vae, x, num_samples=4000, seed=0)
        estimate = arviz.loo(tree)
        elpd = estimate.elpd_loo if FIRST_GENERATION else estimate.elpd
        exact = float(model.evidence().log_prob(x).sum())
        assert elpd - exact > 1.0
        chains = {"z": tree.posterior["z"].values[0].reshape(4, 1000, 30)}
        rhat = arviz.rhat(
            arviz.from_dict(chains) if FIRST_GENERATION else arviz.from_dict({"posterior": chains})
        )
        rhat = np.asarray(rhat["z"])
        assert rhat.max() < 1.02
        assert float((tree.sample_stats["khat"] > 0.7).mean()) > 0.9  # what tells

    def test_compare_ranks_as_the_exact_evidence_does(self):
        model = LinearGaussian(K=1, D=2, scale=4.0)
        other = LinearGaussian(K=1, D=2, scale=5.5)
        x = model.data(200)
        trees = {
            name: pv.to_arviz(pv.VAE(m, ExactGuide(m)), x, num_samples=1000, seed=0)
            for name, m in {"right": model, "too wide": other}.items()
        }
        table = arviz.compare(trees, **({} if FIRST_GENERATION else {"round_to": "none"}))
        assert list(table.index) == ["right", "too wide"]
        exact = [float(m.evidence().log_prob(x).sum()) for m in (model, other)]
        found = table["elpd_loo" if FIRST_GENERATION else "elpd"].astype(float)
        assert found.diff().iloc[1] == pytest.approx(exact[1] - exact[0], abs=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_pages_code_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "arviz.md").read_text()
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/arviz.md", "exec"), namespace)
    assert "loo" in namespace
