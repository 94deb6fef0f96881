"""The tutorials run, and their own assertions hold."""

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
    assert capsys.readouterr().out


def test_the_index_names_them_all():
    index = (TUTORIALS[0].parent / "README.md").read_text()
    assert [path.name for path in TUTORIALS if path.name not in index] == []
