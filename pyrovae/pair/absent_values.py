"""Whether other sites read what a row lacks: it is filled in, and nothing may depend on what with."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrovae.data import Batch
from pyrovae.pair.absence import AbsentEntries, has_marginals, innermost_events
from pyrovae.pair.handlers import Message
from pyrovae.pair.programs import Program
from pyrovae.pair.traces import given, sites_of
from pyrovae.random_state import fixed_seed

# A draw may be what stands there anyway.
DRAWS = 4


def check_absent_values_unread(model: Program, batch: Batch) -> None:
    """Raise ValueError where a density depends on the value of an observation that rows lack."""
    latents = {name: site.value for name, site in sites_of(model, batch).items() if not site.observed}
    replayed = given(model, latents)
    look = _Refill(None, 0)
    expected = _densities(_inside(replayed, look), batch)
    for name in look.lacking:
        for seed in range(DRAWS):
            with suppress(NotImplementedError):  # a distribution that does not draw
                found = _densities(_inside(replayed, _Refill(name, seed)), batch)
                for other, density in found.items():
                    if not torch.allclose(density, expected[other], rtol=1e-4, atol=1e-5, equal_nan=True):
                        raise ValueError(_advice(name, other))


def _densities(model: Program, batch: Batch) -> dict[str, Tensor]:
    """Of each site; what a program draws beside its sites is the same each time."""
    with fixed_seed(0, batch.device):
        return {name: site.log_density() for name, site in sites_of(model, batch).items()}


def _advice(name: str, other: str) -> str:
    if name.endswith("_observed"):
        return (
            f"obs_mask= of '{name.removesuffix('_observed')}' does not follow from its values: it says that they are "
            f"there where they are NaN, and the density of '{other}' depends on them. Write obs_mask=~y.isnan()."
        )
    return (
        f"the density of site '{other}' depends on the value of '{name}', which some rows lack (NaN): only what "
        f"nothing depends on can be left out. Write it with obs_mask=, pyro.sample('{name}', ..., obs=y, "
        "obs_mask=~y.isnan()), and use the value that this gives; its absent values are then latents, summed out under "
        "pyro.infer.config_enumerate if they are discrete, else drawn by the guide."
    )


class _Refill(AbsentEntries):
    """Leaves out what is absent, with draws of one site in its place; notes which sites lack some."""

    def __init__(self, name: str | None, seed: int) -> None:
        super().__init__()
        self.name, self.seed, self.lacking = name, seed, list[str]()

    def _pyro_sample(self, msg: Message) -> None:
        value, distribution = msg["value"], msg["fn"]
        super()._pyro_sample(msg)
        if value is None or msg["value"] is value:
            return
        absent = value.isnan()
        if bool(absent.any()):
            self.lacking.append(msg["name"])
        if msg["name"] == self.name:
            with fixed_seed(self.seed, value.device):
                drawn = distribution.sample().to(value)
            msg["value"] = torch.where(_wholly(absent, distribution), drawn, value.nan_to_num())


def _wholly(absent: Tensor, distribution: Distribution) -> Tensor:
    """Which entries lie in an event that lacks some, of which a part alone may be no value."""
    if has_marginals(distribution):
        return absent
    distribution = innermost_events(distribution)
    return absent.any(tuple(range(-len(distribution.event_shape), 0)), keepdim=True)


def _inside(model: Program, handler: AbsentEntries) -> Program:
    """The program, which the handler is closer to than all others."""

    def run(*arguments: object) -> object:
        with handler:
            return model(*arguments)

    return run
