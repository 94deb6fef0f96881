"""How a benchmark's table is written: Markdown to read, CSV to compute with, settings in both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent / "results"


def write(
    name: str,
    title: str,
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    findings: str = "",
    folder: Path = RESULTS,
) -> None:
    """Write `name`.md and `name`.csv into the folder, and print the former.

    The CSV has one line for each line of the table, the settings as columns after the table's own.
    """
    page = text(title, table, settings, findings)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    table.assign(**{key: str(value) for key, value in settings.items()}).to_csv(
        folder / f"{name}.csv", index=False
    )
    print(page, flush=True)


def text(title: str, table: pd.DataFrame, settings: Mapping[str, Any], findings: str = "") -> str:
    """The page: the table, what was found, the settings."""
    lines = [f"# {title}", "", markdown(table), ""]
    if findings:
        lines += [findings, ""]
    lines += ["Settings:", "", *(f"- {key}: {value}" for key, value in settings.items()), ""]
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """A table alone."""
    rows = [list(table.columns), ["---"] * table.shape[1]]
    rows += [[_shown(value) for value in line] for line in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _shown(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
