"""Amortized q(z|x): posteriors (conditional distributions of x), and the guides that sample from them."""

if __name__ != "pyrovae.guides":
    raise ImportError("import this package as pyrovae.guides: under another name it would be a second copy.")

from pyrovae.guides.amortized import AmortizedGuide
from pyrovae.guides.exact import ExactGuide
from pyrovae.guides.posteriors import DiagonalNormal
from pyrovae.guides.sequence import MarkovPosterior

__all__ = ["AmortizedGuide", "DiagonalNormal", "ExactGuide", "MarkovPosterior"]
