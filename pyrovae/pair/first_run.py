"""The first run of a program: what it gives, or why it failed and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.handlers import EventsDeclared, UndeclaredEventError
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of


def first_run(
    which: str, program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None
) -> dict[str, Site]:
    """The sites of the model or the guide on a few rows, at given latents or at draws.

    Raises:
        ValueError, TypeError: whatever failed, what the program got, and what to do.

    """
    batch = Batch(tuple(a.clone() if isinstance(a, Tensor) else a for a in batch.arguments), batch.absent)
    versions = [a._version for a in batch.arguments if isinstance(a, Tensor)]
    try:
        with EventsDeclared():
            sites = sites_of(program, batch, latents)
    except UndeclaredEventError as error:
        raise ValueError(
            f"site '{error.name}' of the {which} has batch shape {list(error.batch)}. A distribution's batch does not "
            f"fit its plates: dimensions that belong to one row go into the event, with .to_event({error.missing})."
        ) from None
    except Exception as error:
        given = ", ".join(_describe(a) for a in batch.arguments)
        at = " at latents drawn by the guide" if latents is not None else ""
        message = (
            f"the {which} failed on its first rows{at}: {type(error).__name__}: {error}\n  It got ({given})."
        )
        advice = _dtype_advice(error, batch)
        if batch.absent:
            raise ValueError(f"{message} {absence_advice(which, batch)}") from error
        if "inside plate" in str(error) or "invalid log_prob shape" in str(error):
            raise ValueError(
                f"{message} A distribution's batch does not fit its plates: dimensions that belong to one row go into "
                "the event, with .to_event(1); .to_event(3) for an image of channels, height and width."
            ) from error
        if advice:
            raise TypeError(f"{message} {advice}") from error
        if isinstance(error, TypeError) and "argument" in str(error):
            message += " Model and guide must both take (x, *context)."
        raise ValueError(f"{message} These are the first {len(batch)} rows of the data.") from error
    if versions != [a._version for a in batch.arguments if isinstance(a, Tensor)]:
        raise ValueError(
            f"the {which} changes its arguments in place, which would change the data. Let it work on a copy, such as "
            "x = x.clone()."
        )
    return sites


def absence_advice(which: str, batch: Batch) -> str:
    """What to do where a program makes NaN of entries that rows lack."""
    holding = [
        "x" if place == 0 else f"context {place}"
        for place, a in enumerate(batch.arguments)
        if isinstance(a, Tensor) and bool(a.isnan().any())
    ]
    text = f"Of these rows {' and '.join(holding)} lack entries (NaN)"
    if which == "guide":
        return (
            f"{text}, which a network turns into NaN: give it to pyrovae.nn.MissingAsZero, which shows it zeros and "
            "what is present, or let the guide be derived, VAE(model)."
        )
    return (
        f"{text}. A model may observe what is absent (obs=), and not read it: where others depend on it, write the "
        "site with obs_mask= and use its value; context has no absent entries."
    )


def _dtype_advice(error: Exception, batch: Batch) -> str:
    if "dtype" not in str(error) and "scalar type" not in str(error):
        return ""
    wanted = torch.get_default_dtype()
    for place, a in enumerate(batch.arguments):
        if isinstance(a, Tensor) and a.dtype != wanted:
            name = "x" if place == 0 else f"context {place}"
            if not a.is_floating_point():
                return (
                    f"{name} holds integers ({a.dtype}) where the networks need {wanted}: convert it first, with "
                    f"{as_float(a.dtype)}."
                )
            return (
                f"{name} is {a.dtype} and the networks are probably {wanted}: convert it with .to({wanted})."
            )
    return ""


def as_float(dtype: torch.dtype) -> str:
    """How to make floating-point numbers of such a tensor."""
    return "x.float() / 255 (8-bit images)" if dtype == torch.uint8 else ".float()"


def _describe(argument: object) -> str:
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')} {list(argument.shape)}"
    return type(argument).__name__
