"""Whether a pair's programs can draw many samples of each row in one run, under a plate of samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

from pyrovae.data import Batch
from pyrovae.pair.independence import same
from pyrovae.pair.layout import Layout
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import JointTerm, ScoredSite, Term
from pyrovae.random_state import fixed_seed

PROBE_SAMPLES = 3


def find_broadcasting(model: Program, guide: Program, batch: Batch, layout: Layout) -> Layout:
    """Compare each program under a samples plate with the same program on repeated rows."""
    pair = Pair(model, guide, layout)

    def guide_sites(broadcasts: bool) -> dict[str, ScoredSite]:
        with fixed_seed(0, batch.device):
            return run_guide(pair, batch, PROBE_SAMPLES, broadcasts=broadcasts)

    reference = guide_sites(False)
    latents = {name: reference[name].value for name in layout.latents}
    return replace(
        layout,
        guide_broadcasts=_agree(lambda: guide_sites(True), reference),
        model_broadcasts=_agree(
            lambda: run_model(pair, batch, latents, PROBE_SAMPLES, broadcasts=True),
            run_model(pair, batch, latents, PROBE_SAMPLES, broadcasts=False),
        ),
    )


def _agree(broadcast: Callable[[], Mapping[str, Term]], repeated: Mapping[str, Term]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = broadcast()
    except Exception:  # any failure under the plate only means: this program needs repeated rows
        return False
    return all(_same_site(found[name], site) for name, site in repeated.items())


def _same_site(found: Term, site: Term) -> bool:
    if not same(found.log_prob, site.log_prob):
        return False
    if site.observed:
        return True
    if isinstance(found, JointTerm) or isinstance(site, JointTerm):
        return False  # models whose latents are coupled by those summed out run on repeated rows
    return same(found.value, site.value)
