"""Objectives: what training minimizes, as `pyro.infer.ELBO` objects.

Each is a short function of the row-wise densities (`pyrovae.pair.running`), in nats by row. All of them train by
`pyrovae.fit(vae, data, objective=...)` and by `pyro.infer.SVI(model, guide, optim, loss=...)`, and Pyro's own
objectives train by `fit`. `docs/objectives.md` derives them.
"""

from pyrovae.objectives.base import RowLosses, RowObjective
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.fivo import FIVO
from pyrovae.objectives.free_bits import FreeBits
from pyrovae.objectives.iwae import IWAE
from pyrovae.objectives.schedules import Constant, Cyclical, LinearWarmUp, Schedule
from pyrovae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "ELBO",
    "FIVO",
    "IWAE",
    "Constant",
    "Cyclical",
    "FreeBits",
    "LinearWarmUp",
    "ReweightedWakeSleep",
    "RowLosses",
    "RowObjective",
    "Schedule",
]
