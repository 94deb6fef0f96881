"""Pictures of a VAE, by matplotlib.

Each function draws on the axes that it is given, or on those of a figure of its own, and returns the axes; `report`
puts a page together. Nothing here touches pyplot: figures belong to whoever makes them, and the user's backend stays
as it is. For ArviZ's own plots give `pyrovae.to_arviz(...)` to ArviZ.
"""

from pyrovae.plots.checks import calibration_ranks, khat, predictive_check
from pyrovae.plots.curves import rate_distortion, rate_per_dimension, training_history
from pyrovae.plots.grids import image_grid
from pyrovae.plots.latents import latent_map
from pyrovae.plots.panels import Panel
from pyrovae.plots.pictures import interpolation, reconstructions, samples, traversals
from pyrovae.plots.report import Report, report

__all__ = [
    "Panel",
    "Report",
    "calibration_ranks",
    "image_grid",
    "interpolation",
    "khat",
    "latent_map",
    "predictive_check",
    "rate_distortion",
    "rate_per_dimension",
    "reconstructions",
    "report",
    "samples",
    "training_history",
    "traversals",
]
