"""The code of the pages in docs/ runs, block after block."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["choose.md", "extend.md"])
def test_the_pages_code_runs(page, capsys):
    text = (PAGES[0].parent / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    namespace = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
        if page == "extend.md":
            assert len(block.splitlines()) <= 25


def test_every_page_with_code_is_executed_somewhere():
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    with_code = [page.name for page in PAGES if "```python" in page.read_text()]
    assert [name for name in with_code if name not in tests] == []


def test_the_names_that_choose_recommends_are_there():
    import pyrovae as pv

    text = (PAGES[0].parent / "choose.md").read_text().split("## In code")[0]
    names = set(re.findall(r"`(\w+)", text)) - {"pv"}
    places = (pv, pv.models, pv.guides, pv.objectives)
    assert [name for name in sorted(names) if not any(hasattr(place, name) for place in places)] == []
