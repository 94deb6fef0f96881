"""A progress bar, or nothing at all where none is shown."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm


class Bar:
    """How far work has come.

    Where it is not shown there is no bar behind it: tqdm starts a thread that watches its bars and settles how
    `multiprocessing` starts processes, also for those that are disabled.

    Args:
        what: is done.
        unit: of the work.
        shown: whether the bar is.
        total: units in all; None where that is not known.
        initial: units that were done before.
        shortened: large numbers are shown like 12.3k.

    """

    def __init__(
        self,
        what: str,
        unit: str,
        *,
        shown: bool,
        total: int | None = None,
        initial: int = 0,
        shortened: bool = False,
    ) -> None:
        self._bar: tqdm[NoReturn] | None = None
        if shown:
            self._bar = tqdm(desc=what, unit=unit, total=total, initial=initial, unit_scale=shortened)

    def update(self, units: int = 1) -> None:
        """So many units more are done."""
        if self._bar is not None:
            self._bar.update(units)

    def say(self, text: str, *, refresh: bool = True) -> None:
        """Show a text behind the bar, at once or when it next moves."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=refresh)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
