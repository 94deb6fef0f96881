"""All checks of a pair, in their order."""

from __future__ import annotations

import pandas as pd
import torch

from pyrovae.data import Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.pair.programs import Program
from pyrovae.random_state import fixed_seed
from pyrovae.testing.checks import CHECKS, OF_ALL, SkippedError
from pyrovae.testing.report import FAILED, PASSED, SKIPPED, PairCheckError, PairReport
from pyrovae.vae import VAE

ROWS_TO_CHECK = 64


def check_pair(
    model: Program, guide: Program | None, x: object, *context: object, report_only: bool = False
) -> PairReport:
    """Run the checks that a pair must pass to be trained and judged by pyrovae, on the first 64 rows.

    - contract: plates, sites, shapes, supports and dtypes, as `pyrovae.VAE` asks (see `docs/contract.md`)
    - rows independent: no row's density depends on the other rows
    - samples: many samples of a row under a plate are the same as on repeated rows
    - densities finite: log p(x|z), log p(z) and log q(z|x) at ten draws of each row
    - gradients finite, and each trained parameter has one
    - traced equals plain: loss and gradients of the traced operations are the program's own
    - same seed, same numbers: for draws, ELBO and gradients
    - save and load: a saved VAE that is loaded gives the same numbers
    - log p(x) above the ELBO: on average, to the noise of 500 draws
    - absence: where `x` has NaN, rows that lack entries have finite densities and gradients

    Parameters, their modes and torch's random state are left as they were; modules of the programs are used as they
    are, so that what a program itself keeps may change as in any run.

    Args:
        model: p(x, z) as a Pyro program.
        guide: q(z|x) as a Pyro program; None derives one.
        x: [N, ...]; a few dozen rows will do. With NaN in some, absence is checked too.
        context: what the pair takes beside `x`.
        report_only: return the report also where a check failed.

    Returns:
        A report; its `table` has the columns `check, outcome, detail`, the outcome "passed", "failed" or "skipped" (the
        detail says why).

    Raises:
        PairCheckError: a check failed, and `report_only` is False; the message has all of them.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.testing import check_pair
        >>> model = pv.models.LatentVariableModel(
        ...     pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6))
        ... )
        >>> guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2))))
        >>> report = check_pair(model, guide, torch.bernoulli(torch.full((20, 6), 0.4)))
        >>> report.passed, report.table["check"].tolist()[:2]
        (True, ['contract', 'rows independent'])

    """
    lines: list[tuple[str, str, str]] = []
    vae: VAE | None = None
    of_rows: VAE | None = None
    data: Rows | None = None
    with fixed_seed(0, torch.device("cpu")):
        for name, check in {"contract": None, **CHECKS}.items():
            outcome, detail = PASSED, ""
            try:
                if check is None:
                    vae = VAE(model, guide)
                    data = checked_data(vae, x, *context, covers_shared=True)
                    data = data[slice(0, ROWS_TO_CHECK)]
                    if vae.layout.shared:
                        of_rows, detail = (
                            vae.given_draw(0),
                            "what rows share is held at a draw in checks of rows",
                        )
                elif vae is None or data is None:
                    raise SkippedError("the contract failed")
                else:
                    detail = check(vae if of_rows is None or check in OF_ALL else of_rows, data)
            except SkippedError as reason:
                outcome, detail = SKIPPED, str(reason)
            except Exception as error:  # whatever a program raises, the check has failed
                kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                outcome, detail = FAILED, f"{kind}{error}"
                data = None if check is None else data
            lines.append((name, outcome, detail))
    report = PairReport(pd.DataFrame(lines, columns=["check", "outcome", "detail"]))
    if not (report.passed or report_only):
        raise PairCheckError(report)
    return report
