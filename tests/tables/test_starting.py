"""Where a table's VAE starts: at a factor analysis, whose densities and conditionals are known."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import pyrovae as pv
from pyrovae.estimator import TabularVAE
from pyrovae.tables import Schema
from pyrovae.tables.building import make_vae
from pyrovae.tables.factor_analysis import cross_validated
from pyrovae.tables.starting import start_from_factors

K, D = 2, 6


def factors(rows, seed=0):
    """Rows of a factor analysis, and their covariance."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    loading, noise = fixed.normal(size=(D, K)), fixed.uniform(0.3, 0.8, size=D)
    z = rng.normal(size=(rows, K))
    x = z @ loading.T + noise * rng.normal(size=(rows, D)) + np.arange(D)
    return x, loading @ loading.T + np.diag(noise**2)


def holes(x, share, seed=1):
    gone = np.random.default_rng(seed).random(x.shape) < share
    gone[np.arange(len(x)), np.random.default_rng(seed + 1).integers(x.shape[1], size=len(x))] = False
    return np.where(gone, np.nan, x)


def test_the_covariance_is_found_from_rows_that_lack_a_third():
    x, covariance = factors(2000)
    lacking = torch.as_tensor(holes(x, 1 / 3))
    found = cross_validated(lacking, ~lacking.isnan(), K, torch.full((D,), 1e-4))
    made = found.loading @ found.loading.mT + torch.diag(found.noise**2)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    # Of each entry some 900 pairs are there.
    assert np.abs((made.numpy() - covariance) / scale).max() < 4 * np.sqrt(2 / 900)
    assert np.abs(found.mean.numpy() - np.arange(D)).max() < 4 * np.sqrt(np.diag(covariance).max() / 1300)


@pytest.fixture(scope="module")
def started():
    x, _ = factors(100)
    frame = pd.DataFrame(holes(x, 0.2), columns=list("abcdef"))
    schema = Schema.of(frame)
    for name in schema:
        schema[name] = "real"
    torch.manual_seed(0)
    values = schema.to_tensor(frame)
    vae = make_vae(schema, values, K, [8])
    start_from_factors(vae, values)
    # What the decoder says: a linear location, and one scale for each column.
    (likelihood,) = vae.model.likelihoods
    location, scale = likelihood.network.heads
    units = likelihood.units
    assert not bool(location.weight[:, K:].any())
    assert not bool(scale.weight.any())
    mean = units.location(location.bias.detach()).numpy()
    loading = (units.size[:, None] * location.weight[:, :K].detach()).numpy()
    noise = units.scale(pv.nn.positive(scale.bias.detach())).numpy()
    covariance = loading @ loading.T + np.diag(noise**2)
    return vae, values, mean, covariance


def test_it_starts_with_the_exact_density_whatever_rows_lack(started):
    """So do all weights of a row: the guide is the posterior, and one draw is enough."""
    vae, values, mean, covariance = started
    found = pv.log_marginal(vae, values, num_samples=20, seed=0)
    assert float(values.isnan().sum(1).max()) > 2
    for row in range(0, 100, 5):
        there = ~values[row].isnan().numpy()
        exact = scipy.stats.multivariate_normal(mean[there], covariance[np.ix_(there, there)])
        assert float(found.log_marginal[row]) == pytest.approx(exact.logpdf(values[row, there]), abs=1e-3)
    assert float(found.std_error.max()) < 1e-3


def test_labels_start_with_their_shares_and_their_ties():
    """First-order logits and cutpoints: the model's own probabilities are near the rows'."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=1000)
    frame = pd.DataFrame(
        {
            "x": z + 0.5 * rng.normal(size=1000),
            "y": z + 0.5 * rng.normal(size=1000),
            "grade": np.digitize(z + rng.normal(size=1000), [-1.5, 0.5, 1.0]),
            "city": np.array(["a", "b", "c"])[np.digitize(z + 2 * rng.normal(size=1000), [-1, 2])],
        }
    )
    schema = Schema.of(frame)
    assert [schema[name].kind for name in schema] == ["real", "real", "ordered", "category"]
    torch.manual_seed(0)
    values = schema.to_tensor(frame)
    vae = make_vae(schema, values, K, [8])
    start_from_factors(vae, values)
    vae.rows(values)
    drawn = schema.to_frame(vae.model.table(vae.generate(1000, seed=0)))
    for name in ("grade", "city"):
        shares = frame[name].value_counts(normalize=True)
        made = drawn[name].value_counts(normalize=True).reindex(shares.index)
        assert (made - shares).abs().max() < 0.07
    assert np.corrcoef(drawn["x"], drawn["grade"])[0, 1] == pytest.approx(
        np.corrcoef(frame["x"], frame["grade"])[0, 1], abs=0.1
    )


def test_a_linear_table_is_imputed_as_well_as_can_be_after_a_few_epochs():
    x, covariance = factors(200)
    mean = np.arange(D)
    table = TabularVAE(epochs=5, calibration_fraction=0, random_state=0).fit(pd.DataFrame(holes(x, 0.2)))
    test, _ = factors(200, seed=5)
    lacking = holes(test, 0.3, seed=6)
    made = table.impute(pd.DataFrame(lacking), num_samples=100).frame.to_numpy()
    best = lacking.copy()
    for row in best:
        gone = np.isnan(row)
        gain = covariance[np.ix_(gone, ~gone)] @ np.linalg.inv(covariance[np.ix_(~gone, ~gone)])
        row[gone] = mean[gone] + gain @ (row[~gone] - mean[~gone])
    gone = np.isnan(lacking)
    error, least = (np.square(found - test)[gone].mean() for found in (made, best))
    assert error < 1.15 * least


def test_an_absent_grade_is_the_level_next_to_the_mean():
    """Where most say 1 or 5 and nobody knows, it is no end."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"grade": rng.choice([1, 2, 3, 4, 5], size=300, p=[0.45, 0.03, 0.04, 0.03, 0.45])})
    frame["x"] = rng.normal(size=300)
    table = TabularVAE(epochs=5, hidden=(8,), num_samples=2000, random_state=0).fit(frame)
    holes = frame.iloc[:20].assign(grade=np.nan)
    found = table.impute(holes)
    probabilities = table.predict_proba(holes, "grade")
    means = probabilities.to_numpy() @ np.arange(1, 6)
    # Each of 2000 draws with a deviation of at most 2: six errors of the difference are 0.4.
    np.testing.assert_allclose(found.cells["mean"], means, atol=0.4)
    assert np.abs(found.frame["grade"] - found.cells["mean"].to_numpy()).max() <= 0.5
    stands = [probabilities.loc[row, level] for row, level in found.frame["grade"].items()]
    np.testing.assert_allclose(found.cells["probability"], stands, atol=0.05)
