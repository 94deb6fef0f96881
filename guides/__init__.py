"""Amortized q(z|x): posteriors (conditional distributions of x), and the guides that sample from them."""

if __name__ != "pyrovae.guides":
    raise ImportError("import this package as pyrovae.guides: under another name it would be a second copy.")

from pyrovae.guides.amortized import AmortizedGuide
from pyrovae.guides.auto import AutoGuide
from pyrovae.guides.empty import EmptyGuide
from pyrovae.guides.exact import ExactGuide
from pyrovae.guides.experts import MixtureOfExperts, ProductOfExperts
from pyrovae.guides.flows import CouplingFlow, InverseAutoregressiveFlow, NeuralSplineFlow
from pyrovae.guides.hierarchical import BottomUpGuide, HierarchicalGuide, LadderGuide
from pyrovae.guides.mixture import MixtureOfNormals
from pyrovae.guides.posteriors import DiagonalNormal, FullNormal, IsotropicNormal, LowRankNormal
from pyrovae.guides.sequence import MarkovPosterior
from pyrovae.models.flow import Flow

__all__ = [
    "AmortizedGuide",
    "AutoGuide",
    "BottomUpGuide",
    "CouplingFlow",
    "DiagonalNormal",
    "EmptyGuide",
    "ExactGuide",
    "Flow",
    "FullNormal",
    "HierarchicalGuide",
    "InverseAutoregressiveFlow",
    "IsotropicNormal",
    "LadderGuide",
    "LowRankNormal",
    "MarkovPosterior",
    "MixtureOfExperts",
    "MixtureOfNormals",
    "NeuralSplineFlow",
    "ProductOfExperts",
]
