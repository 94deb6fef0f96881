"""The code of the pages in docs/ runs, block after block; the names in their tables are there."""

import re
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae import estimator

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
PLACES = (pv, pv.models, pv.guides, pv.objectives, estimator)


def text_of(page):
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize(
    "page", ["choose.md", "contract.md", "evaluation.md", "extend.md", "parts.md", "training.md"]
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
