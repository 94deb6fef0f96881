"""The first run of a program: what it gives, or why it failed and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyrovae.data import Batch
from pyrovae.pair.dtype_advice import dtype_advice
from pyrovae.pair.handlers import EventsDeclared, UndeclaredEventError
from pyrovae.pair.label_advice import label_advice
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of

# Of a message.
ARGUMENTS_SHOWN, WORDS_SHOWN = 8, 100


def first_run(
    which: str, program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None
) -> dict[str, Site]:
    """The sites of the model or the guide on a few rows, at given latents or at draws.

    Raises:
        ValueError, TypeError: whatever failed, what the program got, and what to do.

    """
    batch = Batch(tuple(a.clone() if isinstance(a, Tensor) else a for a in batch.arguments), batch.absent)
    versions = [a._version for a in batch.arguments if isinstance(a, Tensor)]
    declared = EventsDeclared()
    try:
        with declared:
            sites = sites_of(program, batch, latents)
    except UndeclaredEventError as error:
        raise ValueError(
            f"site '{error.name}' of the {which} has batch shape {list(error.batch)}. A distribution's batch does not "
            f"fit its plates: dimensions that belong to one row go into the event, with .to_event({error.missing})."
            + _advice_on_columns(error, batch)
        ) from None
    except Exception as error:  # whatever a program raises
        said = _Failure(
            which, program, batch, error, " at latents drawn by the guide" if latents is not None else ""
        )
        if advice := _advice_on_lists(batch):
            raise ValueError(said.shortly(advice)) from None
        raise said.explained(declared) from error
    if versions != [a._version for a in batch.arguments if isinstance(a, Tensor)]:
        raise ValueError(
            f"the {which} changes its arguments in place, which would change the data. Let it work on a copy, such as "
            "x = x.clone()."
        )
    return sites


def absence_advice(which: str, batch: Batch) -> str:
    """What to do where a program makes NaN of entries that rows lack."""
    holding = ["x" if place == 0 else f"context {place}" for place in batch.lacking]
    text = f"Of these rows {' and '.join(holding)} lack entries (NaN)"
    if which == "guide":
        return (
            f"{text}, which a network turns into NaN: give it to pyrovae.nn.MissingAsZero, which shows it zeros and "
            "what is present (of sequences, pyrovae.nn.GRU(missing=True)), or let the guide be derived, VAE(model)."
        )
    return (
        f"{text}. A model may observe what is absent (obs=), and not read it: where others depend on it, write the "
        "site with obs_mask= and use its value; context has no absent entries."
    )


@dataclass(frozen=True)
class _Failure:
    """Of a program on its first rows: what it got, and what to do, by what it raised."""

    which: str
    program: Program
    batch: Batch
    error: Exception
    at: str

    def given(self) -> str:
        """The arguments, the first ones."""
        given = ", ".join(_describe(a) for a in self.batch.arguments[:ARGUMENTS_SHOWN])
        unseen = len(self.batch.arguments) - ARGUMENTS_SHOWN
        return f"{given} and {unseen} more arguments" if unseen > 0 else given

    def shortly(self, advice: str) -> str:
        """Advice on the arguments themselves, and little of the error."""
        said = str(self.error).split("\n")[0][:WORDS_SHOWN]
        return (
            f"the {self.which} failed on its first rows{self.at}: it got ({self.given()}). {advice} "
            f"({type(self.error).__name__}: {said})"
        )

    def explained(self, declared: EventsDeclared) -> ValueError | TypeError:
        """The error to raise in its place."""
        error, batch = self.error, self.batch
        message = (
            f"the {self.which} failed on its first rows{self.at}: {type(error).__name__}: {error}\n"
            f"  It got ({self.given()})."
        )
        advice = dtype_advice(error, self.program, batch)
        # Mistakes of other kinds are not for want of entries.
        if batch.absent and not advice and isinstance(error, ValueError | RuntimeError | IndexError):
            return ValueError(
                message + (label_advice(error, batch) or f" {absence_advice(self.which, batch)}")
            )
        if "inside plate" in str(error) or "invalid log_prob shape" in str(error):
            return ValueError(
                f"{message} A distribution's batch does not fit its plates: dimensions that belong to one row go into "
                "the event, with .to_event(1); .to_event(3) for an image of channels, height and width."
            )
        if advice:
            return TypeError(f"{message} {advice}")
        message += _advice_on_names(error) + label_advice(error, batch)
        message += _container_advice(batch) + _advice_on_numbers(error, declared.numbers)
        message += f" These are the first {len(batch)} rows of the data."
        return ValueError(message + _label_advice(batch))


def _advice_on_names(error: Exception) -> str:
    """Of arguments and of sites."""
    text = str(error)
    if isinstance(error, TypeError) and "keyword-only" in text:
        return (
            " Arguments are given by position: bind this one, VAE(functools.partial(model, name=value), ...), give "
            "it a default, or take it by position as context."
        )
    if "Multiple" in text and "sites named" in text:
        return " Every site and every plate needs a name of its own; several sites stand in one plate."
    if isinstance(error, TypeError) and "argument" in text:
        return " Model and guide must both take (x, *context)."
    return ""


def _advice_on_columns(error: UndeclaredEventError, batch: Batch) -> str:
    """Of a column, [B, 1], a plate of B rows makes [B, B]."""
    if error.missing != 1 or error.batch[-2:] != (len(batch), len(batch)):
        return ""
    return (
        f" If it is a column, [{len(batch)}, 1], which the plate spread over the rows: a latent of size 1 needs "
        ".to_event(1) like any other, in the model and in the guide, or is drawn without that dimension, [..., 0]."
    )


def _advice_on_numbers(error: Exception, numbers: list[str]) -> str:
    """Of a distribution of batch shape [1] a plate makes one number a row, and the next layer expects a column."""
    if (
        not numbers
        or not isinstance(error, RuntimeError)
        or not re.search("size|shape|dimension", str(error))
    ):
        return ""
    names = ", ".join(f"'{name}'" for name in numbers)
    return (
        f" Of {names} a row has one number here, without a dimension of columns: a vector, also one of size 1, is "
        "declared with .to_event(1)."
    )


def _advice_on_lists(batch: Batch) -> str:
    """A list of rows looks like x with much context, each item of one shape."""
    shapes = {a.shape if isinstance(a, Tensor) else None for a in batch.arguments}
    if len(batch.arguments) <= ARGUMENTS_SHOWN or len(shapes) > 1:
        return ""
    return (
        "The items of a list or a tuple are x and context, arguments of the programs. If these are rows, make one "
        "tensor of them: torch.stack(data), or torch.tensor(data) of numbers."
    )


def _container_advice(batch: Batch) -> str:
    for place, argument in enumerate(batch.context, 1):
        if isinstance(argument, Mapping | list | tuple) and any(
            isinstance(leaf, Tensor) and leaf.dim() for leaf in tree_leaves(argument)
        ):
            return (
                f" Context {place} is a {type(argument).__name__} that holds tensors: rows are taken of arguments that "
                "are tensors themselves, so give each as an argument of its own."
            )
        if isinstance(argument, list) and argument and isinstance(argument[0], int | float | list):
            return (
                f" Context {place} is a list, which goes to the programs as it is, whole. If it has an item for each "
                "row, make a tensor of it: torch.tensor(...)."
            )
    return ""


def _label_advice(batch: Batch) -> str:
    """Data sets of images and labels are common, and so are models of the images alone."""
    for place, argument in enumerate(batch.context, 1):
        if isinstance(argument, Tensor) and argument.dim() == 1 and argument.dtype == torch.int64:
            return (
                f" If context {place} is a label that the pair does not take, leave it out: of a Dataset of (x, label) "
                "by fit(..., transform=lambda x, label: (x,)), or by x, label = pyrovae.stacked(dataset)."
            )
    return ""


def _describe(argument: object) -> str:
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')} {list(argument.shape)}"
    return type(argument).__name__
