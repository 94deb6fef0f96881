"""Fitted tables as files: weights, schema, settings and held-out scores in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from pyrovae.files import FileError, load_tensors, reading, save_tensors
from pyrovae.schema import MalformedError, checked
from pyrovae.tables.building import make_vae
from pyrovae.tables.mixed import check_model
from pyrovae.tables.schema import Schema
from pyrovae.vae import VAE

KIND, WEIGHTS = "table", "vae."


class Settings(TypedDict):
    """What a file says beside the schema."""

    latent_size: int
    hidden: list[int]
    own_vae: bool
    num_samples: int
    random_state: int | None
    n_features_in: int
    feature_names: list[str] | None


@dataclass(frozen=True)
class SavedTable:
    """What a file holds: the VAE, the schema, settings, scores of held-out rows [C] and of their entries [C, D]."""

    vae: VAE
    schema: Schema
    settings: Settings
    scores: np.ndarray
    cells: np.ndarray

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, atomically."""
        tensors = {f"{WEIGHTS}{name}": tensor for name, tensor in self.vae.tensors().items()}
        tensors |= {
            "held_out_scores": torch.as_tensor(self.scores),
            "held_out_cells": torch.as_tensor(self.cells),
        }
        save_tensors(path, KIND, tensors, {"schema": self.schema.to_json(), "settings": self.settings})


def load_table(path: str | os.PathLike[str], own_vae: Callable[[Schema, Tensor], VAE] | None) -> SavedTable:
    """What `SavedTable.save` wrote; `own_vae` makes the VAE where it is no `make_vae`'s.

    Raises:
        FileNotFoundError: no such file.
        FileError: another file, damaged, or of another architecture.

    """
    tensors, facts = load_tensors(path, KIND)
    with reading(path, KIND):
        settings = checked(facts.get("settings"), Settings, "settings")
        schema = Schema.from_json(facts.get("schema"))
        _refuse_another_maker(path, settings["own_vae"], own_vae is not None)
        sizes = settings["latent_size"], tuple(settings["hidden"])
        weights = {n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)}
        largest = sum(tensor.numel() for tensor in weights.values())
        if not sizes[1] or not all(0 < size <= largest for size in (sizes[0], *sizes[1])):
            raise MalformedError(
                "settings.hidden", f"and latent_size are {sizes}, and there are {largest} weights"
            )
        example = schema.example()
        made = make_vae(schema, example, *sizes) if own_vae is None else own_vae(schema, example)
        vae = check_model(made, example)
        if differences := vae.take_values(weights):
            raise FileError(path, "tensors", f"belongs to another architecture: {differences}.")
        for name, dims in (("held_out_scores", 1), ("held_out_cells", 2)):
            if name not in tensors or tensors[name].dim() != dims:
                raise MalformedError(name, "is missing, or of another shape")
    scores, cells = tensors["held_out_scores"].numpy(), tensors["held_out_cells"].numpy()
    return SavedTable(vae, schema, settings, scores, cells)


def _refuse_another_maker(path: str | os.PathLike[str], was_own: bool, is_own: bool) -> None:
    if was_own == is_own:
        return
    advice = (
        "was fitted with a make_vae of its own: give it, TabularVAE.load(path, make_vae=...)."
        if was_own
        else "was fitted without make_vae: leave it out."
    )
    raise FileError(path, "settings.own_vae", advice)
