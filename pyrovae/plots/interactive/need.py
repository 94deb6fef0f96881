"""What the page needs beyond matplotlib: Bokeh, an optional dependency."""

from __future__ import annotations

from importlib.util import find_spec

HOW = "pip install 'pyrovae[page]'"


def has_bokeh() -> bool:
    """Whether Bokeh is there."""
    return find_spec("bokeh") is not None


def need_bokeh(what: str) -> None:
    """Raise unless Bokeh is there.

    Raises:
        ModuleNotFoundError: says what needs it, how to get it, and what goes without.

    """
    if not has_bokeh():
        raise ModuleNotFoundError(
            f"{what} needs Bokeh: {HOW}. The printable sheet, .save('report.png'), goes without.",
            name="bokeh",
        )
