"""Which kinds the values of a column allow."""

from __future__ import annotations

import dataclasses
from typing import cast

from pyrovae.tables.columns import Column, Kind


def fits(column: Column) -> bool:
    """Whether a column whose values have become more is still of its kind."""
    if column.kind == "constant":
        return column.options == 1
    if column.is_label:
        return column.options > 1
    unknown = dataclasses.replace(column, kind="real")
    return not problem(unknown, column.kind, column.low or 0.0, 1.0 if column.high is None else column.high)


_NUMBERS = ("real", "positive", "count", "bounded")


def problem(column: Column, kind: Kind, low: float, high: float) -> str:
    """Why a column cannot be of a kind; "" if it can."""
    if kind == column.kind:
        return ""
    is_time, is_number = column.origin is not None, column.least is not None and column.origin is None
    if kind in ("category", "ordered"):
        if is_time or column.levels is None:
            return "it has too many different values"
        return "it has one value alone" if column.options < 2 else ""
    if kind in ("boolean", "date", "constant") or (is_time and kind != "real"):
        return f"it is {column.dtype}, and kinds like this one follow from the dtype"
    if is_time:
        return ""
    if kind in _NUMBERS and not is_number:
        return f"its values, {column}, are no numbers"
    least, most = cast(float, column.least), cast(float, column.most)
    if kind == "positive" and least <= 0:
        return f"it holds {least:g}"
    if kind == "count" and (least < 0 or column.decimals != 0):
        return f"it holds {least:g}" if least < 0 else "it holds numbers that are not whole"
    if kind == "bounded" and not low < high:
        return f"low is {low:g} and high is {high:g}"
    if kind == "bounded" and not low <= least <= most <= high:
        return f"it holds {least:g} to {most:g}, beyond {low:g} to {high:g}: give low= and high="
    return ""
