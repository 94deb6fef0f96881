"""What a Pyro objective sees while it runs, by parts, so that a training history can tell them."""

from __future__ import annotations

from collections.abc import Collection

import pyro.infer
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.pair.enumeration import parts_summed_out
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_in


class BatchTerms:
    """Collects what a Pyro objective sees while it runs, so that a history can tell its parts.

    Wrap model and guide, run the objective, then read `take(objective)`: sums over the batch of the
    ELBO, log p(x|z) and log q - log p(z), without scales, on the device (nothing is synchronised).
    `shared` are the statements of latents above the rows. `plate_scale` is the N/B of the row plate in the last runs,
    1 where it is not subsampled.
    """

    def __init__(self, shared: Collection[str] = ()) -> None:
        self.plate_scale = 1.0
        self._shared = shared
        self._guide_traces: list[Trace] = []
        self._model_traces: list[Trace] = []

    def model(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._model_traces)

    def guide(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._guide_traces)

    @torch.no_grad()
    def take(self, objective: pyro.infer.ELBO, share: float = 0.0) -> Tensor | None:
        """Sums over rows, means over particles: (ELBO, reconstruction, rate); forgets the runs.

        The rate includes a `share` of that of shared latents. None where the guide was run under enumeration, whose
        traces hold no draws then, or the model beside shared latents.
        """
        # An objective may have run the pair before, to guess its plates: only the last runs count.
        runs = 1 if objective.vectorize_particles else objective.num_particles
        models, guides = self._model_traces[-runs:], self._guide_traces[-runs:]
        self._model_traces.clear()
        self._guide_traces.clear()
        rows = [site for name, site in sites_in(models[0]).items() if name not in self._shared]
        self.plate_scale = rows[0].row_plate_scale
        guide_sites = [site for trace in guides for site in sites_in(trace).values()]
        if any(site.enumerated for site in guide_sites) or (self._shared and any(map(_enumerates, models))):
            return None
        log_likelihood, log_prior = (
            torch.stack(parts).sum()
            for parts in zip(*(self._parts(trace, share) for trace in models), strict=True)
        )
        # A guide's factors belong to the loss alone.
        log_guide = self._summed([site for site in guide_sites if not site.factor], share)
        rate = log_guide - log_prior
        return torch.stack([log_likelihood - rate, log_likelihood, rate]) / objective.num_particles

    def _parts(self, trace: Trace, share: float) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) of a model's run, summed over its rows."""
        sites = sites_in(trace).values()
        if any(site.enumerated for site in sites):
            return parts_summed_out(trace)
        observed, latent = ([site for site in sites if site.observed is which] for which in (True, False))
        return self._summed(observed, share), self._summed(latent, share)

    def _summed(self, sites: list[Site], share: float) -> Tensor:
        total = torch.zeros(())
        for site in sites:
            density = site.log_density().sum()
            total = total + (share * density if site.name in self._shared else density)
        return total


def _enumerates(trace: Trace) -> bool:
    return any(site.enumerated for site in sites_in(trace).values())


def _recorded(program: Program, traces: list[Trace]) -> Program:
    def run(*arguments: object, **keywords: object) -> object:
        with poutine.trace() as recorder:
            result = program(*arguments, **keywords)
        traces.append(recorder.trace)
        return result

    return run
