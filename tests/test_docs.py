"""The code of the pages in docs/ runs, block after block; the names in their tables are there."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import pyrovae as pv
from benchmarks import deep_markov
from pyrovae import estimator

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
PLACES = (pv, pv.models, pv.guides, pv.objectives, estimator)


def text_of(page):
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize(
    "page", ["choose.md", "contract.md", "evaluation.md", "extend.md", "parts.md", "report.md", "training.md"]
)
def test_the_pages_code_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text_of(page), flags=re.DOTALL)
    assert blocks
    namespace = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
        if page == "extend.md":
            assert len(block.splitlines()) <= 25


def test_the_readmes_example_trains_the_same_each_time():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    training = block[: block.index("print(")].replace("epochs=20", "epochs=2")
    losses = []
    for number in range(2):
        torch.manual_seed(100 + number)
        exec(compile(training, "README.md", "exec"), namespace := {"__name__": "README"})
        losses.append(namespace["history"].loss.tolist())
    assert losses[0] == losses[1]


def test_every_page_with_code_is_executed_somewhere():
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    with_code = [page.name for page in PAGES if "```python" in page.read_text()]
    assert [name for name in with_code if name not in tests] == []


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"^(\w+)$", text_of("index.md"), flags=re.MULTILINE)
    assert {page.stem for page in PAGES} - {"index"} <= set(listed)


@pytest.mark.parametrize("page", ["choose.md", "evaluation.md", "parts.md"])
def test_the_names_that_pages_recommend_are_there(page):
    text, _ = text_of(page).split("```python", 1)
    names = set(re.findall(r"`(\w+)", text)) - {"pv", "pyrovae"}
    assert names
    assert [name for name in sorted(names) if not any(hasattr(place, name) for place in PLACES)] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_the_paths_that_pages_name_are_there(page):
    text = (ROOT / page).read_text()
    paths = re.findall(r"`([\w/]+(?:/|\.py|\.md))`", text) + re.findall(r"\]\(([\w/]+(?:/|\.\w+))\)", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = [path for path in (ROOT / "pyrovae").iterdir() if path.is_dir() and path.name != "__pycache__"]
    lacking = [
        room.name for room in rooms if not room.is_symlink() and f"| `pyrovae/{room.name}/` |" not in text
    ]
    assert rooms
    assert lacking == []


def test_every_column_is_explained():
    _, text = text_of("evaluation.md").split("## Units")
    columns = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(columns) == sorted({*pv.Elbo.columns, *pv.LogMarginal.columns})


def table_of(name):
    table = pd.read_csv(ROOT / "benchmarks" / "results" / f"{name}.csv")
    return table.set_index(table.columns[0])


def test_what_the_page_says_of_priors_is_in_the_table():
    text, table = " ".join(text_of("choose.md").split()), table_of("prior_swap")
    gains = table["ELBO over standard normal's"].round(1)
    for name, words in (
        ("VampPrior", "{} nats above the standard normal's with a VampPrior"),
        ("affine flow", "{} with a flow"),
        ("mixture of normals", "{} with a mixture of normals"),
        ("two levels", "{} with two levels"),
    ):
        assert words.format(gains[name]) in text
    learned = table.loc[["VampPrior", "affine flow", "mixture of normals"]]
    assert "rates were within 0.4 nats of the standard normal's" in text
    assert (learned["rate"] - table["rate"]["standard normal"]).abs().max() < 0.4
    better = learned["reconstruction"] - table["reconstruction"]["standard normal"]
    assert "by 2 to 4 nats" in text
    assert better.min() > 2
    assert better.max() < 4
    seconds = learned["training seconds"] / table["training seconds"]["standard normal"]
    assert "1.4 times as long with the flow, and 2.5 to 2.7 times with 150" in text
    assert (round(seconds["affine flow"], 1), round(seconds["VampPrior"], 1)) == (1.4, 2.7)
    assert 2.5 < seconds["mixture of normals"] < 2.7


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "results").rglob("*.csv")), ids=lambda p: p.stem
)
def test_log_p_of_x_is_shown_where_it_stands(path):
    """Where most rows' Pareto k is good, or beside annealing."""
    table = pd.read_csv(path)
    shares = [name for name in table if "Pareto k" in name]
    for name in shares:
        good = pd.to_numeric(table[name].astype(str).str.rstrip("%")) / (
            100 if table[name].dtype == object else 1
        )
        assert (good > 0.5).all() or "log p(x)" not in table


def test_what_the_page_says_of_guides_is_in_the_table():
    text, table = " ".join(text_of("choose.md").split()), table_of("guides")
    good = table["Pareto k < 0.7"]
    flows = good[["inverse_autoregressive_flow", "coupling_flow", "neural_spline_flow"]]
    assert f"{good['diagonal_normal']} of the rows under the diagonal normal" in text
    assert f"{good['full_normal']} under `FullNormal` and `LowRankNormal`" in text
    assert good["full_normal"] == good["low_rank_normal"]
    assert f"{good['mixture_of_normals']} under `MixtureOfNormals`" in text
    assert f"{flows.min()[:-1]} to {flows.max()} under the flows" in text
    assert table["ELBO"].max() - table["ELBO"]["diagonal_normal"] < 0.1


def test_the_chorales_stand_beside_what_others_reached():
    assert deep_markov.NOTE in (ROOT / "benchmarks" / "results" / "deep_markov.md").read_text()
    assert "reaches 6.87" in deep_markov.NOTE
