"""The panels of a report: a module for each, in which its picture stands beside what is said of it.

A panel is a function from the report's `Subject` to its `Content`: a way to draw it, a sentence, a table. It gives
None where the report was given nothing to show on it, and the page does not mention it; it raises ValueError where
the pair does not allow it, and the page says why it is left out. To add one, write such a function, list it in
`PANELS`, and add its picture to `__all__` if it is for users.
"""

from collections.abc import Callable

from pyrovae.plots.panel import Content
from pyrovae.plots.panels.calibration import calibration_panel, calibration_ranks
from pyrovae.plots.panels.coverage import tarp_coverage, tarp_panel
from pyrovae.plots.panels.distortion import rate_distortion, rate_distortion_panel
from pyrovae.plots.panels.generation import samples, samples_panel
from pyrovae.plots.panels.importance_weights import khat, weights_panel
from pyrovae.plots.panels.latent_space import latent_map, latent_map_panel
from pyrovae.plots.panels.predictive import predictive_check, predictive_panel
from pyrovae.plots.panels.rates import rate_per_dimension, rates_panel
from pyrovae.plots.panels.reconstruction import reconstructions, reconstructions_panel
from pyrovae.plots.panels.recovery import contraction, contraction_panel, recovery
from pyrovae.plots.panels.resemblance import resemblance, resemblance_panel
from pyrovae.plots.panels.statistics import predictive_statistics
from pyrovae.plots.panels.tails import tails
from pyrovae.plots.panels.training import training_history, training_panel
from pyrovae.plots.panels.walks import interpolation, interpolation_panel, traversals, traversals_panel
from pyrovae.plots.subject import Subject

PANELS: dict[str, Callable[[Subject], Content | None]] = {
    "Training": training_panel,
    "Reconstructions": reconstructions_panel,
    "Samples": samples_panel,
    "Latent map": latent_map_panel,
    "Traversals": traversals_panel,
    "Interpolation": interpolation_panel,
    "Predictive check": predictive_panel,
    "Rate by latent dimension": rates_panel,
    "Importance weights": weights_panel,
    "Resemblance": resemblance_panel,
    "Calibration": calibration_panel,
    "TARP coverage": tarp_panel,
    "Contraction": contraction_panel,
    "Rate and distortion": rate_distortion_panel,
}

# Of several observed sites each has panels of these of its own, but for those of a table, which stand side by side; and
# of these each site has one in any case.
EACH_VIEW = ("Reconstructions", "Samples", "Traversals", "Interpolation")
EACH_SITE = ("Predictive check",)

# The pictures that users draw by themselves, as `pyrovae.plots.khat(...)`.
__all__ = [
    "calibration_ranks",
    "contraction",
    "interpolation",
    "khat",
    "latent_map",
    "predictive_check",
    "predictive_statistics",
    "rate_distortion",
    "rate_per_dimension",
    "reconstructions",
    "recovery",
    "resemblance",
    "samples",
    "tails",
    "tarp_coverage",
    "training_history",
    "traversals",
]
