"""Data frames in, data frames out: what columns hold, and VAEs that are made to fit them."""

from pyrovae.tables.columns import KINDS, Column
from pyrovae.tables.schema import Schema

__all__ = ["KINDS", "Column", "Schema"]
