"""A model and a guide: two Pyro programs of one signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeAlias

from torch import nn

from pyrovae.pair.layout import Layout

Program: TypeAlias = Callable[..., object]
"""p(x, z) or q(z|x) as a function of `(x, *context)` with Pyro's statements in it; what it returns is not read."""


def argument_names(program: Program) -> list[str]:
    """What a program calls its arguments, in their order; those of `*args` have no names."""
    function = program.forward if isinstance(program, nn.Module) else program
    if isinstance(function, functools.partial):
        function = function.func
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


class Pair:
    """A generative model p(x, z) and a guide q(z|x), with what one run of them showed.

    All that runs programs takes a pair. A `pyrovae.VAE` is one that has parameters of its own.

    Args:
        model: p(x, z).
        guide: q(z|x).
        layout: of their sites; None while that is not known.

    """

    model: Program
    guide: Program

    def __init__(self, model: Program, guide: Program, layout: Layout | None = None) -> None:
        self.model = model
        self.guide = guide
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """The pair's sites, known once it has seen a batch.

        Raises:
            ValueError: it has seen none.

        """
        if self._layout is None:
            raise ValueError(
                "this VAE has not seen any data, so its sites and shapes are unknown. Train or evaluate it "
                "first, or give it a few rows: VAE(model, guide, example=x)."
            )
        return self._layout
