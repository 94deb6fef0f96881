"""What a Pyro objective sees while it runs, by parts, so that a training history can tell them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.pair.programs import Program
from pyrovae.pair.sites import log_density, plate_scale, sample_sites


class BatchTerms:
    """Collects what a Pyro objective sees while it runs, so that a history can tell its parts.

    Wrap model and guide, run the objective, then read `take(objective)`: sums over the batch of the
    ELBO, log p(x|z) and log q - log p(z), without scales, on the device (nothing is synchronised).
    `plate_scale` is the N/B of the row plate in the last runs, 1 where it is not subsampled.
    """

    def __init__(self) -> None:
        self.plate_scale = 1.0
        self._guide_traces: list[Any] = []
        self._model_traces: list[Any] = []

    def model(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._model_traces)

    def guide(self, program: Program) -> Program:
        """The program, with each run recorded."""
        return _recorded(program, self._guide_traces)

    @torch.no_grad()
    def take(self, objective: Any) -> Tensor | None:
        """Sums over rows, means over particles: (ELBO, reconstruction, rate); forgets the runs.

        None where a program was run under enumeration: its traces hold no draws then.
        """
        # An objective may have run the pair before, to guess its plates: only the last runs count.
        runs = 1 if objective.vectorize_particles else objective.num_particles
        models, guides = self._model_traces[-runs:], self._guide_traces[-runs:]
        self._model_traces.clear()
        self._guide_traces.clear()
        self.plate_scale = plate_scale(next(_sites(models)))
        log_likelihood = log_prior = log_guide = torch.zeros(())
        for site in _sites(models):
            if site["infer"].get("_enumerate_dim") is not None:
                return None
            if site["is_observed"]:
                log_likelihood = log_likelihood + log_density(site).sum()
            else:
                log_prior = log_prior + log_density(site).sum()
        for site in _sites(guides):
            if site["infer"].get("_enumerate_dim") is not None:
                return None
            log_guide = log_guide + log_density(site).sum()
        rate = log_guide - log_prior
        return torch.stack([log_likelihood - rate, log_likelihood, rate]) / objective.num_particles


def _sites(traces: list[Any]) -> Iterator[Any]:
    for trace in traces:
        for _, site in sample_sites(trace):
            yield site


def _recorded(program: Program, traces: list[Any]) -> Program:
    def run(*arguments: Any, **keywords: Any) -> Any:
        with poutine.trace() as recorder:
            result = program(*arguments, **keywords)
        traces.append(recorder.trace)
        return result

    return run
