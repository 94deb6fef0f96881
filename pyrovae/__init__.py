"""pyrovae: variational autoencoders declared as Pyro programs.

A VAE is a pair of Pyro programs, a generative model p(x, z) and an amortized guide q(z|x). `fit` trains it,
`elbo` and `log_marginal` evaluate it row by row, each figure with its error, `refine` finds each row a posterior of
its own, `to_arviz` hands it to ArviZ.
"""

from pyrovae import callbacks, guides, models, nn, objectives, plots, testing
from pyrovae._version import __version__
from pyrovae.conditional_distribution import ConditionalDistribution
from pyrovae.criticism.calibration import Calibration, calibrate
from pyrovae.criticism.diagnosis import Diagnosis, diagnose
from pyrovae.criticism.predictive import PredictiveCheck, predictive_check
from pyrovae.criticism.rate_distortion import rate_distortion
from pyrovae.criticism.recovery import Recovery
from pyrovae.criticism.resemblance import Resemblance, resembles
from pyrovae.criticism.tails import TailCheck, tail_check
from pyrovae.datasets import stacked
from pyrovae.evidence.annealing import AnnealedImportanceSampling
from pyrovae.evidence.bound import elbo
from pyrovae.evidence.comparison import Comparison, compare
from pyrovae.evidence.conditional_results import LogConditional
from pyrovae.evidence.escalation import EscalatingSampling
from pyrovae.evidence.forecasting import Forecast, forecast
from pyrovae.evidence.importance import ImportanceSampling
from pyrovae.evidence.imputation import impute
from pyrovae.evidence.imputed import Imputation
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.refinement import Refinement, refine
from pyrovae.evidence.results import Elbo, LogMarginal
from pyrovae.evidence.reverse_check import ReverseCheck, reverse_check
from pyrovae.evidence.sequential import SequentialMonteCarlo
from pyrovae.evidence.sequential_results import SequentialLogMarginal
from pyrovae.evidence.shared_check import SharedCheck, shared_check
from pyrovae.evidence.simulated_bounds import SimulatedBounds, simulated_bounds
from pyrovae.exchange.anndata import from_anndata
from pyrovae.exchange.arviz_bridge import to_arviz
from pyrovae.exchange.cluster import Clustering, cluster
from pyrovae.exchange.features import features
from pyrovae.exchange.probe import Probe, probe
from pyrovae.training.checkpoints import Checkpoint
from pyrovae.training.fitting import fit
from pyrovae.training.nonfinite import NonFiniteLossError
from pyrovae.vae import VAE

__all__ = [
    "VAE",
    "AnnealedImportanceSampling",
    "Calibration",
    "Checkpoint",
    "Clustering",
    "Comparison",
    "ConditionalDistribution",
    "Diagnosis",
    "Elbo",
    "EscalatingSampling",
    "Forecast",
    "ImportanceSampling",
    "Imputation",
    "LogConditional",
    "LogMarginal",
    "NonFiniteLossError",
    "PredictiveCheck",
    "Probe",
    "Recovery",
    "Refinement",
    "Resemblance",
    "ReverseCheck",
    "SequentialLogMarginal",
    "SequentialMonteCarlo",
    "SharedCheck",
    "SimulatedBounds",
    "TailCheck",
    "__version__",
    "calibrate",
    "callbacks",
    "cluster",
    "compare",
    "diagnose",
    "elbo",
    "features",
    "fit",
    "forecast",
    "from_anndata",
    "guides",
    "impute",
    "log_marginal",
    "models",
    "nn",
    "objectives",
    "plots",
    "predictive_check",
    "probe",
    "rate_distortion",
    "refine",
    "resembles",
    "reverse_check",
    "shared_check",
    "simulated_bounds",
    "stacked",
    "tail_check",
    "testing",
    "to_arviz",
]


def __dir__() -> list[str]:
    return sorted(__all__)
