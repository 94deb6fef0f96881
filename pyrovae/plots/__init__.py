"""Pictures of a VAE, by matplotlib.

Each function draws on the axes that it is given, or on those of a figure of its own, and returns the axes; `report`
puts a page together. Nothing here touches pyplot: figures belong to whoever makes them, and the user's backend stays
as it is. For ArviZ's own plots give `pyrovae.to_arviz(...)` to ArviZ.
"""

from pyrovae.plots import panels
from pyrovae.plots.grids import image_grid
from pyrovae.plots.page import Page, Report
from pyrovae.plots.panel import Panel
from pyrovae.plots.panels import *  # noqa: F403 - a picture is made public where its panel is listed, and only there
from pyrovae.plots.panels import PANELS
from pyrovae.plots.report import report
from pyrovae.plots.tables import table_panels

__all__ = ["PANELS", "Page", "Panel", "Report", "image_grid", "report", "table_panels"]
__all__ += panels.__all__
