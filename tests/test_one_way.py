"""One way through: what `vae.rows(...)` gives is taken by every public verb, and checked no more."""

from collections import Counter
from dataclasses import fields, is_dataclass

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pyrovae as pv
import pyrovae.data
import pyrovae.pair.inspected
import pyrovae.training.batches
from pyrovae.arrays import OnDisk
from pyrovae.block_sizes import ROWS_AT_ONCE
from pyrovae.criticism import diagnosis
from pyrovae.data import Rows
from pyrovae.evidence import comparison, refinement_search
from pyrovae.evidence.checked_data import fits_on

matplotlib.use("agg")

N, D = 40, 4


@pytest.fixture(autouse=True)
def a_search_is_over_soon(monkeypatch):
    monkeypatch.setattr(refinement_search, "WINDOW", 2)
    monkeypatch.setattr(refinement_search, "PLATEAUS", 1)


def make():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = pv.models.LatentVariableModel(
            pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2 + 1, D))
        )
        return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(D + 1, (2, 2)))))


def data(rows=N):
    x = torch.bernoulli(torch.full((rows, D), 0.5), generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True)


def labels():
    return torch.arange(N) % 2


ANNEALED = pv.AnnealedImportanceSampling(num_temperatures=3, num_leapfrog_steps=1)

VERBS = {
    "encode": lambda vae, *of: vae.encode(*of),
    "reconstruct": lambda vae, *of: vae.reconstruct(*of, seed=1),
    "sample_posterior": lambda vae, *of: vae.sample_posterior(*of, num_samples=3, seed=1),
    "elbo": lambda vae, *of: pv.elbo(vae, *of, seed=1),
    "log_marginal": lambda vae, *of: pv.log_marginal(vae, *of, num_samples=30, seed=1),
    "annealing": lambda vae, *of: pv.log_marginal(vae, *of, num_samples=2, method=ANNEALED, seed=1),
    "refine": lambda vae, *of: pv.refine(vae, *of, num_steps=5, num_samples=5, seed=1),
    "diagnose": lambda vae, *of: pv.diagnose(vae, *of, num_samples=30, gap_rows=3, seed=1),
    "compare": lambda vae, *of: pv.compare({"a": vae, "b": make()}, *of, num_samples=30, seed=1),
    "rate_distortion": lambda vae, *of: pv.rate_distortion(lambda beta: vae, [1.0, 2.0], *of, seed=1),
    "features": lambda vae, *of: pv.features(vae, *of),
    "probe": lambda vae, *of: pv.probe(vae, *of, labels=labels()),
    "cluster": lambda vae, *of: pv.cluster(vae, *of, num_clusters=2),
    "impute": lambda vae, *of: pv.impute(vae, *of, num_samples=5, seed=1),
    "to_arviz": lambda vae, *of: pv.to_arviz(vae, *of, num_samples=5, resample_from=50, seed=1),
    "predictive_check": lambda vae, *of: pv.predictive_check(
        vae, *of, statistics={"mean": lambda x, *context: x.mean()}, num_draws=19, seed=1
    ),
    "resembles": lambda vae, *of: pv.resembles(vae, *of, num_swaps=19, seed=1),
    "tail_check": lambda vae, *of: pv.tail_check(vae, *of, num_samples=30, seed=1),
    "report": lambda vae, *of: pv.plots.report(vae, *of, num_samples=30, seed=1).diagnosis,
    "fit": lambda vae, *of: pv.fit(vae, of[0] if len(of) == 1 else of, epochs=2, seed=1).drop(
        columns="seconds"
    ),
}
# These make their rows themselves, or make rows, or take chains or latents above the rows alone.
WITHOUT_DATA = {
    "calibrate",
    "forecast",
    "from_anndata",
    "reverse_check",
    "shared_check",
    "simulated_bounds",
    "stacked",
}


def same(a, b):
    """Whether two results hold the same figures."""
    if is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, Tensor):
        return bool(torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, pd.DataFrame | pd.Series):
        return a.equals(b)
    if isinstance(a, pv.VAE):
        return True
    if hasattr(a, "log_likelihood"):
        return all(getattr(a, group).equals(getattr(b, group)) for group in ("posterior", "log_likelihood"))
    return a == b or (a != a and b != b)


def test_the_table_holds_every_verb():
    verbs = {
        name for name in pv.__all__ if callable(getattr(pv, name)) and not isinstance(getattr(pv, name), type)
    }
    assert verbs - WITHOUT_DATA <= VERBS.keys()


@pytest.mark.parametrize("name", VERBS)
def test_rows_give_the_same_as_what_they_were_made_from(name):
    vae, again = make(), make()
    assert same(VERBS[name](vae, *data()), VERBS[name](again, again.rows(*data())))


@pytest.fixture
def counted(monkeypatch):
    """How often an array was scanned for NaN, and a block of rows for the likelihood's support."""
    found = Counter()

    def counting(module, name):
        function = getattr(module, name)

        def count(*arguments, **keywords):
            found[name] += 1
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, count)

    counting(pyrovae.data, "_holds_nan")
    counting(pyrovae.pair.inspected, "check_support")
    counting(pyrovae.training.batches, "check_support")
    # Rows that a verb simulates are data of their own, checked as well.
    for verb in (diagnosis, comparison):
        monkeypatch.setattr(verb, "reverse_check_beside", lambda *_, **__: (None, "left out"))
    return found


CHECKED_ONCE = {"_holds_nan": 2, "check_support": 2}  # x and context; two blocks of rows


@pytest.mark.parametrize(
    "name", ["elbo", "log_marginal", "annealing", "refine", "diagnose", "rate_distortion", "to_arviz", "fit"]
)
def test_data_are_checked_once(counted, name):
    vae = make()
    VERBS[name](vae, *data(ROWS_AT_ONCE + 1))
    assert counted == CHECKED_ONCE


def test_data_are_checked_once_on_their_way_through_many_verbs(counted):
    vae = make()
    rows = vae.rows(*data(ROWS_AT_ONCE + 1))
    for name in ("fit", "elbo", "diagnose", "log_marginal", "refine", "to_arviz", "elbo"):
        VERBS[name](vae, rows)
    assert counted == CHECKED_ONCE
    refined = VERBS["refine"](vae, rows).vae  # of the same likelihood
    pv.log_marginal(refined, rows, num_samples=10)
    pv.elbo(vae, rows[:5])
    assert counted == CHECKED_ONCE


def test_each_model_of_a_comparison_checks_its_own_support(counted):
    VERBS["compare"](make(), *data(ROWS_AT_ONCE + 1))
    assert counted == {"_holds_nan": 2, "check_support": 2 * 2}


def test_rows_on_a_device_are_those_that_were_checked(counted):
    vae = make()
    rows = vae.rows(*data(5))
    vae.rows_in_support(rows.to(vae.device))
    assert vae in rows.checked_by
    some = rows[:3]
    some.checked_by.clear()  # some of the rows have been checked with all, but not all with some
    assert vae in rows.checked_by


def test_rows_outside_the_support_are_named_where_they_were_before():
    vae, (x, c) = make(), data()
    x[7, 1] = 2.0
    rows = vae.rows(x, c)
    for name in ("elbo", "log_marginal", "annealing", "refine", "diagnose"):
        with pytest.raises(ValueError, match="row 7 of the data lies outside the support of site 'x'"):
            VERBS[name](vae, rows)


@pytest.mark.parametrize("kind", ["numpy", "pandas", "on disk"])
def test_other_arrays_go_the_same_way(kind, tmp_path):
    x, c = data()
    if kind == "numpy":
        given = (x.numpy(), c.numpy())
    elif kind == "pandas":
        given = (pd.DataFrame(x.numpy()), pd.DataFrame(c.numpy()))
    else:
        np.save(tmp_path / "x.npy", x.numpy())
        given = (np.load(tmp_path / "x.npy", mmap_mode="r"), c)
    expected = pv.diagnose(make(), x, c, num_samples=30, gap_rows=3, seed=1)
    vae = make()
    rows = vae.rows(*given)
    assert isinstance(rows.x, OnDisk) == (kind == "on disk")
    assert same(pv.diagnose(vae, *given, num_samples=30, gap_rows=3, seed=1), expected)
    assert same(pv.diagnose(vae, rows, num_samples=30, gap_rows=3, seed=1), expected)


def test_data_go_to_a_gpu_as_a_whole_where_they_take_less_than_half_of_its_memory(monkeypatch):
    rows, gpu = Rows(data(100)), torch.device("cuda")  # 100 * 5 numbers of 4 bytes
    for free, fits in ((4000, True), (3999, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert fits_on(gpu, rows) == fits
    assert fits_on(torch.device("cpu"), rows)
