"""Data of which some sites observe nothing: what the others say alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyrovae.data import Batch, Rows
from pyrovae.evidence.checked_data import checked_data
from pyrovae.pair.observed import Statement, statements
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE


def only_given(vae: VAE, data: Rows, given: Sequence[str]) -> Rows:
    """The rows, with NaN in every entry that a site observes which is not given.

    Raises:
        TypeError: `given` is no list of names.
        ValueError: names of sites that are not there; none, or all; a site that observes no floating-point entries of
            the data as they are, or the same as a given one; a given one that depends on what becomes absent other than
            by `obs_mask=`, or rows that then lack too much for the pair.

    """
    others = _others(vae, given)
    blocks: list[list[Tensor | None]] = []
    with vae.evaluating(), fixed_seed(0, vae.device):
        for _, batch in data.in_blocks(vae.device):
            blocks.append(_made_absent(vae, batch, given, others))
    joined = (
        torch.cat([part for part in parts if part is not None]) if parts[0] is not None else argument
        for argument, parts in zip(data.arguments, zip(*blocks, strict=True), strict=True)
    )
    try:
        rows = checked_data(vae, *joined)
    except ValueError as error:
        raise ValueError(
            f"log p({', '.join(given)}) needs rows without {_listed(others)}: {error}"
        ) from error
    with vae.evaluating(), fixed_seed(0, vae.device):
        for _, batch in rows.in_blocks(vae.device):
            _check_masks(sites_of(vae.model, batch), others)
    return rows


def _others(vae: VAE, given: Sequence[str]) -> dict[str, Statement]:
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"given is {given!r}: expected a list of names of sites, such as [{str(given)!r}].")
    known = statements(vae.layout)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"given names {_listed(unknown)}, which the model does not observe: it observes {_listed(known)}."
        )
    others = {name: statement for name, statement in known.items() if name not in given}
    if not others:
        raise ValueError(
            f"given names all that the model observes, {_listed(known)}: nothing is left to ask the density of. Leave "
            "out of given= what you ask for."
        )
    if not given:
        raise ValueError("given names no site: leave it out for log p of all.")
    return others


def _made_absent(
    vae: VAE, batch: Batch, given: Sequence[str], others: Mapping[str, Statement]
) -> list[Tensor | None]:
    """The tensors of a batch with NaN where others observe, by place; None for arguments that are the same for all."""
    leaves = {
        place: argument.detach().clone().requires_grad_()
        for place, argument in enumerate(batch.arguments)
        if isinstance(argument, Tensor) and argument.dim() > 0 and argument.is_floating_point()
    }
    arguments = tuple(leaves.get(place, argument) for place, argument in enumerate(batch.arguments))
    with torch.enable_grad():
        sites = sites_of(vae.model, Batch(arguments, batch.absent))
        known = statements(vae.layout)
        read = {name: _influence(sites[known[name].observed].value, leaves) for name in known}
        scores = {name: _influence(sites[known[name].observed].log_density(), leaves) for name in given}
    for name, statement in others.items():
        if all(influence is None for influence in read[name].values()):
            raise ValueError(
                f"what '{name}' observes is no part of the data as it stands, or comes as integers, which cannot be "
                "absent: give it as floating-point numbers, e.g. y.float(), and observe them unchanged."
            )
        for place in leaves:
            own = read[name][place]
            for other in given if own is not None else []:
                _refuse_shared(name, other, _both(own, read[other][place]))
                if statement.unobserved is None:
                    _refuse_dependent(name, other, _both(own, scores[other][place]))
    taken: list[Tensor | None] = []
    for place, argument in enumerate(batch.arguments):
        if not isinstance(argument, Tensor) or argument.dim() == 0:
            taken.append(None)
            continue
        for name in others:
            influence = read[name].get(place)
            argument = argument if influence is None else argument.masked_fill(influence, torch.nan)
        taken.append(argument)
    return taken


def _influence(values: Tensor, leaves: Mapping[int, Tensor]) -> dict[int, Tensor | None]:
    """Which entries of each argument bear on some values; None where none can."""
    if not values.requires_grad:
        return dict.fromkeys(leaves)
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return {
        place: None if gradient is None else gradient != 0
        for place, gradient in zip(leaves, found, strict=True)
    }


def _both(some: Tensor | None, others: Tensor | None) -> bool:
    return some is not None and others is not None and bool((some & others).any())


def _refuse_shared(name: str, other: str, shared: bool) -> None:
    if shared:
        raise ValueError(
            f"'{name}' and '{other}' observe the same entries of the data: neither can be given without the other."
        )


def _refuse_dependent(name: str, other: str, dependent: bool) -> None:
    if dependent:
        raise ValueError(
            f"'{other}' depends on what '{name}' observes: without it '{name}' is a latent. Write it so, "
            f"pyro.sample('{name}', ..., obs=y, obs_mask=~y.isnan()), and use its value."
        )


def _check_masks(sites: Mapping[str, Site], others: Mapping[str, Statement]) -> None:
    """Raise where `obs_mask=` says that something is there which is not."""
    for name, statement in others.items():
        hidden = statement.unobserved
        if hidden is not None and not bool(sites[hidden].counted.all()):
            raise ValueError(
                f"obs_mask= of '{name}' does not follow from its values: it says that they are there where they are "
                "NaN. Write obs_mask=~y.isnan()."
            )


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names)
