"""Results are worth reading as they are: in a terminal, and in Jupyter."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.shown import ROWS_SHOWN, table_of, within_a_page
from tests.chains import chain_model, chain_rows, chain_vae
from tests.pairs import binary_rows, composed
from tests.plots.test_page import Balanced
from tests.shared_models import offsets


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    vae, x = composed(), binary_rows(40)
    holes, chains, lengths = binary_rows(5), chain_rows(chain_model(), 3, 4), torch.tensor([4, 3, 2])
    holes[1, 2] = torch.nan
    annealed = pv.AnnealedImportanceSampling(num_temperatures=3, num_leapfrog_steps=1)
    return {
        "Elbo": pv.elbo(vae, x, seed=0),
        "LogMarginal": pv.log_marginal(vae, x, num_samples=20, seed=0),
        "Imputation": pv.impute(pv.VAE(composed().model), holes, num_samples=20, seed=0),
        "Forecast": pv.forecast(chain_vae(1.2, 0.2), chains, lengths, steps=2, num_samples=20, seed=0),
        "Refinement": pv.refine(vae, x[:5], num_steps=5, seed=0),
        "Diagnosis": pv.diagnose(vae, x, num_samples=20, seed=0),
        "Comparison": pv.compare({"<a>": vae, "b": composed()}, x, num_samples=20, seed=0),
        "Calibration": pv.calibrate(vae, num_simulations=20, num_draws=9, seed=0),
        "Recovery": pv.calibrate(vae, num_simulations=20, num_draws=9, seed=0).recovery,
        "PredictiveCheck": pv.predictive_check(
            vae, x, statistics={"<mean>": lambda x: x.mean()}, num_draws=19, seed=0
        ),
        "Resemblance": pv.resembles(vae, x, num_swaps=19, seed=0),
        "SharedCheck": pv.shared_check(pv.VAE(offsets), x, num_samples=20, row_samples=4, seed=0),
        "TailCheck": pv.tail_check(vae, x, num_samples=30, seed=0),
        "ReverseCheck": pv.reverse_check(vae, num_rows=10, num_samples=20, seed=0),
        "SimulatedBounds": pv.simulated_bounds(vae, 3, num_samples=2, method=annealed, seed=0),
        "Probe": pv.probe(vae, x, labels=np.arange(40) % 2),
        "Clustering": pv.cluster(vae, x, num_clusters=2),
        "Report": plots.report(vae, x, num_samples=20, seed=0, title="<Mine>", panels=["Reconstructions"]),
    }


TABLES = {"Elbo": 1, "LogMarginal": 1, "Refinement": 1, "Diagnosis": 3, "Comparison": 1, "Calibration": 2}
TABLES |= {"Imputation": 1, "Forecast": 1, "SharedCheck": 1}
TABLES |= {"Recovery": 1, "PredictiveCheck": 1, "Resemblance": 1, "TailCheck": 1}
TABLES |= {"ReverseCheck": 1, "SimulatedBounds": 1, "Probe": 0, "Clustering": 0, "Report": 1}


@pytest.mark.parametrize("name", TABLES)
def test_results_show_themselves(results, name):
    result = results[name]
    assert repr(result) == str(result)
    assert "tensor(" not in repr(result)
    assert f"{name}(" not in repr(result)
    page = Balanced()
    page.feed(result._repr_html_())
    assert page.open == []
    assert page.tags[0] == "div"
    assert page.tags.count("table") == TABLES[name]
    assert "<a>" not in result._repr_html_()
    assert "<Mine>" not in result._repr_html_()


def test_what_functions_give_is_all_in_the_table(results):
    """A public result that is a table of figures by row, or made of such, cannot be forgotten."""
    from pyrovae.shown import Shown

    def kinds(kind):
        return {kind} | {k for sub in kind.__subclasses__() for k in kinds(sub)}

    public = {kind.__name__ for kind in kinds(Shown) if kind.__module__.startswith("pyrovae.")}
    # Shown as `LogMarginal` is, as text, and in the tests of tables and chains.
    elsewhere = {"LogConditional", "SequentialLogMarginal", "PairReport"}
    elsewhere |= {"ImputedFrame", "Outliers", "Schema"}
    assert public - {"Shown", "RowWise", "Panel"} - elsewhere == set(TABLES)


def test_a_page_leaves_the_rest_of_a_notebook_alone():
    page = within_a_page(["<p>text</p>"])
    rules = [line.split("{")[0] for line in page.splitlines() if "{" in line]
    assert rules
    assert all(selector.strip().startswith(".pyrovae ") for rule in rules for selector in rule.split(","))


def test_long_tables_are_cut_and_say_how_long_they_are():
    long = table_of(pd.DataFrame({"figure": np.arange(1000.0)}))
    assert long.count("<tr") <= ROWS_SHOWN + 3
    assert "1000 rows" in long
    assert "rows" not in table_of(pd.DataFrame({"figure": np.arange(3.0)}))


def test_pictures_appear_without_pyplot():
    code = (
        "import sys, torch\n"
        "from pyrovae import plots\n"
        "ax = plots.image_grid([torch.rand(5, 8, 8)])\n"
        "assert ax._repr_png_()[:4] == ax.figure._repr_png_()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_figure_of_a_page_and_a_panel_appear_too(results):
    page = results["Report"]
    assert page.figure()._repr_png_()[:4] == b"\x89PNG"
    assert "<img" in page.panels[0]._repr_html_()


def test_axes_of_the_users_own_stay_what_they_are():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.image_grid([torch.rand(5, 8, 8)], ax=ax) is ax
