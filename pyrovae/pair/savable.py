"""A pair that is saved to a file and loaded from one: its tensors, and what it knows of its sites and rows."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, Self, TypeVar

from pyro.infer.autoguide import AutoGuide as AutomaticGuide
from torch import Tensor

from pyrovae.files import FileError, load_tensors, reading, save_tensors
from pyrovae.pair import contract
from pyrovae.pair.bounded import NothingLarger
from pyrovae.pair.inspected import InspectedPair
from pyrovae.pair.layout import Layout
from pyrovae.pair.rollback import unchanged_on_error
from pyrovae.pair.row_specs import RowSpecs, ones, refuse_other_columns, with_columns
from pyrovae.pair.saved_pair import ROOM, SavedPair, check_room, from_json, to_json
from pyrovae.random_state import fixed_seed
from pyrovae.schema import MalformedError, checked

# The kind of file that keeps a training, and what the names of its weights there begin with.
TRAINING, WEIGHTS = "training", "state.weights."

_Self = TypeVar("_Self")
_Result = TypeVar("_Result")
_P = ParamSpec("_P")


def _of_a_vae(load: Callable[Concatenate[_Self, _P], _Result]) -> Callable[Concatenate[_Self, _P], _Result]:
    """Explain a call on the class, VAE.load(path): a file has the numbers of a VAE, and no code that makes one."""

    @functools.wraps(load)
    def called(self: _Self, /, *args: _P.args, **keywords: _P.kwargs) -> _Result:
        if isinstance(self, str | os.PathLike):
            raise TypeError(
                f"load({str(self)!r}) was called on the class, and a file holds no programs: build the VAE as it "
                "was built, vae = VAE(model, guide), then vae.load(path)."
            )
        return load(self, *args, **keywords)

    return called


class SavablePair(InspectedPair):
    """An inspected pair with files."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and buffers to one safetensors file, atomically; no pickle.

        Raises:
            OSError: the file cannot be written; an older one is left as it was.

        """
        save_tensors(path, "VAE", self.tensors(), {"pair": to_json(self._layout, self._row_specs)})

    @_of_a_vae
    def load(self, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote into this VAE, built the same way; returns self.

        Of a training's checkpoint the weights are taken, those of the step after which it was written. Parameters of
        `pyro.param` that this VAE has not made yet take their values when it does.

        Raises:
            FileNotFoundError: no such file.
            ValueError: neither a saved VAE nor a checkpoint, truncated, damaged, or of another architecture (says what
                differs): a `pyrovae.files.FileError`, which has the file and the field. Nothing is changed then.

        """
        saved, facts = load_tensors(path, "VAE", TRAINING)
        if facts["kind"] == TRAINING:
            saved = {n.removeprefix(WEIGHTS): t for n, t in saved.items() if n.startswith(WEIGHTS)}
        with reading(path, facts["kind"]), unchanged_on_error(self):
            if "pair" not in facts:
                raise MalformedError("metadata.pair", "is missing")
            pair = facts["pair"]
            layout, row_specs = from_json(None if pair is None else checked(pair, SavedPair, "pair"))
            self._refuse_another(path, layout, row_specs)
            if self._layout is None and layout is not None and row_specs is not None:
                self._build_guide_without_data(path, layout, row_specs, saved)
            if differences := self.take_values(saved):
                raise FileError(path, "tensors", f"belongs to another architecture: {differences}.")
        # Sites and shapes as the file has them, until the first rows show them.
        self._layout = self._layout or layout
        if self._row_specs is not None and row_specs is not None:
            row_specs = with_columns(self._row_specs, row_specs)
        self._row_specs = row_specs or self._row_specs
        self._reads_x = None
        return self

    def _refuse_another(
        self, path: str | os.PathLike[str], layout: Layout | None, row_specs: RowSpecs | None
    ) -> None:
        """Raise FileError where the file's pair has other sites or columns than this one."""
        try:
            if self._layout is not None and layout is not None:
                self._refuse_other_sites(layout, self._layout)
            if self._row_specs is not None and row_specs is not None:
                refuse_other_columns(row_specs, self._row_specs)
        except ValueError as error:
            raise FileError(path, "pair", f"is refused: {error}") from error

    def _build_guide_without_data(
        self, path: str | os.PathLike[str], layout: Layout, row_specs: RowSpecs, saved: Mapping[str, Tensor]
    ) -> None:
        """Build a derived guide for rows as a file tells of them, no larger than the file's tensors."""
        num_bytes = sum(tensor.nbytes for tensor in saved.values())
        check_room(layout, row_specs, contract.PROBE_ROWS, num_bytes)
        rows = ones(row_specs, contract.PROBE_ROWS, self.device)
        largest = num_bytes + sum(a.nbytes for a in rows.arguments if isinstance(a, Tensor))
        try:
            # What it draws and learns is overwritten.
            with fixed_seed(0, self.device), self._learning(keep=False), NothingLarger(largest):
                self._build_guide(rows)
            if isinstance(
                self.guide, AutomaticGuide
            ):  # of shared latents; its first run, and the model's, build it
                with fixed_seed(0, self.device), NothingLarger(largest + ROOM), self.evaluating():
                    self.guide(*rows.arguments)
        except MalformedError:
            raise
        except Exception as error:  # whatever a program raises at rows that are not its own
            raise FileError(
                path,
                "pair.rows",
                "is of another model, most likely: from rows as it tells of them the derived guide cannot be built "
                f"({type(error).__name__}: {str(error).split(chr(10))[0]}). Build the model as it was. If it is the "
                "same, show this VAE a few rows first: VAE(model, example=(x, *context)).load(path).",
            ) from error
