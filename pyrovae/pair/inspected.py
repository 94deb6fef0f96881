"""A pair that has been looked at: its sites and the rows that it takes, known from a first batch or from a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyrovae.data import ARRAYS, Batch, Rows
from pyrovae.files import FileError
from pyrovae.pair import contract
from pyrovae.pair.bounded import NothingLarger
from pyrovae.pair.layout import Layout
from pyrovae.pair.parameters import PairParameters
from pyrovae.pair.programs import Program
from pyrovae.pair.row_specs import RowSpecs, check_specs, ones
from pyrovae.pair.support import check_support
from pyrovae.random_state import fixed_seed, same_random_state
from pyrovae.schema import MalformedError

# What a guide that is built from data is shown of them.
ROWS_TO_BUILD_FROM = 1000


class InspectedPair(PairParameters):
    """A pair with its parameters, its layout and the dtypes and shapes of its rows."""

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__(model, guide)
        self._row_specs: RowSpecs | None = None
        self._inspected = False
        self._saw_absence = False

    @property
    def row_specs(self) -> RowSpecs:
        """Dtype and shape of a row of `x` and of each context argument, known once it has seen a batch."""
        self.layout  # noqa: B018 - says what to do where there is none
        assert self._row_specs is not None
        return self._row_specs

    def rows(self, *data: object) -> Rows:
        """Check data `x, *context` against the pair and hand them back as `Rows`; inspects the pair at the first call.

        Every function of pyrovae that takes data takes these `Rows` in their place, and does not check them again.

        Raises:
            ValueError, TypeError: see `pyrovae.data.Rows` and `pyrovae.pair.contract`; rows of another shape or
                dtype than those that the pair was inspected with.

        """
        given = data[0] if len(data) == 1 and isinstance(data[0], Rows) else Rows(data)
        if self._row_specs is not None:
            check_specs(given.arguments, self._row_specs)
        if not self._inspected:
            self._inspect(given)
        if given.absent and not self._saw_absence:
            with same_random_state(self.device), self.evaluating():
                few = given.take(given.places_to_try(contract.PROBE_ROWS), self.device)
                contract.check_absence(self.model, self.guide, few)
        self._saw_absence |= given.absent
        return given

    def rows_in_support(self, *data: object) -> Rows:
        """Data as `rows` gives them, every value in the support of the likelihood.

        Raises:
            ValueError, TypeError: as `rows`; a value outside the support, with its row.

        """
        found = self.rows(*data)
        if self not in found.checked_by:
            with self.evaluating(), fixed_seed(0, self.device):
                for first, batch in found.in_blocks(self.device):
                    check_support(self.model, batch, range(first, first + len(batch)))
            found.checked_by.add(self)
        return found

    def check_rows(self, batch: Batch) -> None:
        """Raise ValueError or TypeError unless a batch has the dtypes and shapes of the first; values are not read."""
        check_specs(batch.arguments, self.row_specs)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, evaluation mode, own parameters; modes are restored afterwards."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad(), self.scope():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def _inspect(self, data: Rows) -> None:
        places = data.places_to_try(contract.PROBE_ROWS)
        batch = data.take(places, self.device)
        # Draws start from where torch's random state is, for a pair may make parameters here, and are put back.
        with same_random_state(self.device), self.evaluating():
            contract.inspect_model(self.model, batch)
        self._build_guide(data.take(data.places_to_try(ROWS_TO_BUILD_FROM), self.device))
        with same_random_state(self.device), self.evaluating():
            layout = contract.inspect_pair(self.model, self.guide, batch, places.tolist())
        if self._layout is not None:
            self._refuse_other_sites(self._layout, layout)
        self.warn_of_untrained_modules()
        self._layout, self._inspected = layout, True
        self._row_specs = [(a.dtype, a.shape[1:]) if isinstance(a, ARRAYS) else None for a in data.arguments]

    def _build_guide(self, batch: Batch) -> None:
        """A guide that is built from data, such as AutoGuide, has a method `build(x, *context)`."""
        build = getattr(self.guide, "build", None)
        if build is not None:
            with self.evaluating():
                build(*batch.arguments)

    def _build_guide_without_data(
        self, path: str | os.PathLike[str], row_specs: RowSpecs, num_bytes: int
    ) -> None:
        """Build a derived guide for rows as a file tells of them, whose tensors have so many bytes."""
        rows = ones(row_specs, contract.PROBE_ROWS, self.device)
        largest = num_bytes + sum(a.nbytes for a in rows.arguments if isinstance(a, Tensor))
        try:
            with fixed_seed(0, self.device), NothingLarger(largest):  # what it draws is overwritten
                self._build_guide(rows)
        except MalformedError:
            raise
        except Exception as error:
            raise FileError(
                path,
                "pair.rows",
                f"tells of rows from which the derived guide cannot be built ({type(error).__name__}: {error}). Show "
                "this VAE a few rows first: VAE(model, example=(x, *context)).load(path).",
            ) from error

    def _refuse_other_sites(self, of_file: Layout, own: Layout) -> None:
        there, here = of_file.families, own.families
        if there != here:
            raise ValueError(
                f"the file belongs to another pair: its sites are {str(there)[:1000]}, and this VAE's {here}."
            )
