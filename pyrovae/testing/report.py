"""What `check_pair` found, check by check."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pyrovae.shown import Section, Shown, text_of

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True, repr=False)
class PairReport(Shown):
    """What `check_pair` found: `table` has a line for each check, with the columns `check, outcome, detail`."""

    table: pd.DataFrame

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return self.table["check"][self.table["outcome"] == FAILED].tolist()

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed

    def __str__(self) -> str:
        return text_of(self.sections(), "")

    def sections(self) -> list[Section]:
        """See `Shown`."""
        lines = [
            f"{outcome:8}{check}" + (f": {detail}" if detail else "")
            for check, outcome, detail in self.table.astype(str).to_numpy().tolist()
        ]
        return [lines]


class PairCheckError(AssertionError):
    """A pair that failed a check of `check_pair`; `report` is of all of them."""

    def __init__(self, report: PairReport) -> None:
        super().__init__(f"the pair failed {', '.join(report.failed)}.\n{report}")
        self.report = report
