"""Latents that rows share, theta: drawn once for all rows and samples of a run, held at values, and their densities.

Given theta a pair is one of rows like any other: all that runs programs sees it so, for the statements of theta are
kept from every handler outside of the program. Plates of samples spread rows alone then, and one draw of theta serves
all samples of a run. Hence the two kinds of terms: those of rows, [S,B] given theta, and those of theta, a number each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message as PyroMessage
from torch import Tensor, nn

from pyrovae.data import Batch
from pyrovae.pair.handlers import Message
from pyrovae.pair.keys import as_key
from pyrovae.pair.layout import Layout
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import as_given, site_of


class SharedStatements(Messenger):
    """A program's statements of shared latents, drawn or given values, and kept from the handlers outside.

    Args:
        names: of the statements.
        values: by name, in the program's layout; those without one are drawn.

    """

    def __init__(self, names: Collection[str], values: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.values = names, {} if values is None else values
        self.sites: dict[str, Site] = {}

    def _process_message(self, msg: PyroMessage[..., Tensor]) -> None:
        name = msg["name"]
        if msg["type"] == "sample" and name in self.names:
            assert name is not None
            if name in self.values:
                msg["value"] = self.values[name]
                msg["done"] = True
            msg["stop"] = True

    def _postprocess_message(self, msg: PyroMessage[..., Tensor]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            site = site_of(cast(Message, msg))
            self.sites[site.name] = site


class Held(nn.Module):
    """A program with its shared latents held at values, buffers of this module: one of rows.

    Args:
        program: the model or the guide.
        values: by latent, in the program's layout.
        statements: all that stand for them, a guide's auxiliary ones among them; None for those of `values`.

    """

    def __init__(
        self, program: Program, values: Mapping[str, Tensor], statements: Collection[str] | None = None
    ) -> None:
        super().__init__()
        self.program = program
        self.names = tuple(values)
        self.statements = self.names if statements is None else tuple(statements)
        for name, value in values.items():
            self.register_buffer(as_key(name), value.detach().clone(), persistent=False)

    def hold(self, values: Mapping[str, Tensor]) -> None:
        """Hold them at other values, in place."""
        for name in self.names:
            getattr(self, as_key(name)).copy_(values[name])

    def forward(self, *arguments: object) -> object:
        """Run the program on rows."""
        with SharedStatements(self.statements, {name: getattr(self, as_key(name)) for name in self.names}):
            return self.program(*arguments)


@dataclass(frozen=True)
class SharedTerms:
    """One draw of theta: its values by site, in the program's layout, log p(theta) and log q(theta), in nats."""

    values: Mapping[str, Tensor]
    log_prior: Tensor
    log_guide: Tensor

    @property
    def rate(self) -> Tensor:
        """log q(theta) - log p(theta)."""
        return self.log_guide - self.log_prior


class SharedRun:
    """A pair of rows whose runs draw theta, by the guide, and score it, by the model, beside.

    Args:
        pair: with shared latents.

    """

    def __init__(self, pair: Pair) -> None:
        self._names = tuple(pair.layout.shared)
        self._of_guide = SharedStatements(pair.layout.shared_statements)
        self._of_model = SharedStatements(self._names, _ValuesOf(self._of_guide))
        self.pair = Pair(
            _inside(pair.model, self._of_model), _inside(pair.guide, self._of_guide), pair.layout.of_rows
        )

    @property
    def terms(self) -> SharedTerms:
        """Of the last runs."""
        values = {name: self._of_guide.sites[name].value for name in self._names}
        return SharedTerms(
            values, summed(self._of_model.sites.values()), summed(self._of_guide.sites.values())
        )


def draw_shared(pair: Pair, batch: Batch) -> SharedTerms:
    """A draw of theta from the guide, with its densities. Which rows these are has no bearing on it."""
    drawn = SharedStatements(pair.layout.shared_statements)
    with as_given(batch), drawn:
        pair.guide(*batch.arguments)
    values = {name: drawn.sites[name].value for name in pair.layout.shared}
    scored = SharedStatements(tuple(values), values)
    with as_given(batch), scored:
        pair.model(*batch.arguments)
    return SharedTerms(values, summed(scored.sites.values()), summed(drawn.sites.values()))


def draw_shared_of_prior(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """A draw of theta from the model."""
    drawn = SharedStatements(tuple(pair.layout.shared))
    with as_given(batch), drawn:
        pair.model(*batch.arguments)
    return {name: site.value for name, site in drawn.sites.items()}


def summed(sites: Collection[Site]) -> Tensor:
    """The sum of some sites' densities, without scales."""
    return torch.stack([site.log_density().sum() for site in sites]).sum()


def for_users(value: Tensor, layout: Layout, name: str) -> Tensor:
    """A draw of a shared latent, or draws [S, ...], from the program's layout to [*sizes, *event]."""
    site = layout.shared[name]
    leading = value.dim() - len(site.pyro_shape)
    return value.reshape((*value.shape[:leading], *site.shape))


def for_programs(value: Tensor, layout: Layout, name: str) -> Tensor:
    """The inverse of `for_users`, of one draw."""
    return value.reshape(layout.shared[name].pyro_shape)


class _ValuesOf(Mapping[str, Tensor]):
    """What statements were last drawn."""

    def __init__(self, statements: SharedStatements) -> None:
        self._statements = statements

    def __getitem__(self, name: str) -> Tensor:
        return self._statements.sites[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements.sites)

    def __len__(self) -> int:
        return len(self._statements.sites)


def _inside(program: Program, statements: SharedStatements) -> Program:
    def run(*arguments: object) -> object:
        with statements:
            return program(*arguments)

    return run
