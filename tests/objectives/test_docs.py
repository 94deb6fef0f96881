"""The page on objectives: its blocks run, in order, and their own assertions hold."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def test_the_pages_code_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 5
    namespace = {"__name__": "objectives_page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    assert "nats per row" in capsys.readouterr().out


def test_writing_ones_own_takes_under_20_lines():
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
    assert len(block.split("\n\n\n")[0].splitlines()) < 20
