"""A pair that has been looked at: its sites and the rows that it takes, known from a first batch or from a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from pyrovae.checks import level_of_caller
from pyrovae.data import Batch, Rows
from pyrovae.nn.standardize import Standardize, learning_first_data
from pyrovae.pair import contract
from pyrovae.pair.first_run import first_run
from pyrovae.pair.label_advice import labels_explained
from pyrovae.pair.layout import Layout
from pyrovae.pair.matching import warn_of_whole_numbers
from pyrovae.pair.parameters import PairParameters
from pyrovae.pair.programs import Program
from pyrovae.pair.reachable import modules_of
from pyrovae.pair.row_specs import (
    RowSpecs,
    check_columns,
    check_specs,
    specs_of,
    with_columns,
    with_steps,
)
from pyrovae.pair.support import check_support
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed, same_random_state
from pyrovae.turn import TURN

# What a guide that is built from data is shown of them.
ROWS_TO_BUILD_FROM = 1000


def refuse_other_than_vae(vae: object) -> None:
    """Raise TypeError for what is no VAE, such as a model."""
    if not isinstance(vae, InspectedPair):
        raise TypeError(f"vae is {type(vae).__name__}: expected a pyrovae.VAE, such as VAE(model, guide).")


class InspectedPair(PairParameters):
    """A pair with its parameters, its layout and the dtypes and shapes of its rows."""

    def __init__(self, model: Program, guide: Program, *, seed: int | None = None) -> None:
        super().__init__(model, guide)
        self._seed = seed
        self._row_specs: RowSpecs | None = None
        self._inspected = False
        self._saw_absence = False
        # Whether the model reads values of x beyond observing them, once somebody has asked.
        self._reads_x: bool | None = None
        self._floats_seen: torch.dtype | None = None

    def take_as_seen(self, other: InspectedPair, layout: Layout) -> None:
        """Know of rows what another pair knows that takes the same ones, and this layout."""
        self._layout, self._row_specs, self._inspected = layout, other._row_specs, other._inspected
        self._saw_absence, self._reads_x, self._floats_seen = (
            other._saw_absence,
            other._reads_x,
            other._floats_seen,
        )

    @property
    def row_specs(self) -> RowSpecs:
        """Of `x` and each context argument dtype, shape and columns of a row, known once it has seen a batch."""
        self.layout  # noqa: B018 - says what to do where there is none
        assert self._row_specs is not None
        return self._row_specs

    @property
    def columns(self) -> list[str | int] | None:
        """The columns of `x`, in their order, where rows came as a data frame at first or in training; else None.

        `frame[vae.columns]` is what this VAE takes of another frame.
        """
        spec = self.row_specs[0]
        return None if spec is None or spec.columns is None else list(spec.columns)

    @property
    def floats(self) -> torch.dtype | None:
        """The dtype of its floating-point parameters, which numbers of NumPy and pandas take; None if not just one."""
        found = {p.dtype for p in self.parameters() if p.is_floating_point()}
        return found.pop() if len(found) == 1 else None

    def rows(self, *data: object) -> Rows:
        """Check data `x, *context` against the pair and hand them back as `Rows`; inspects the pair at the first call.

        Every function of pyrovae that takes data takes these `Rows` in their place, and does not check them again; or
        the one tuple (x, *context) that `fit` takes.

        Raises:
            ValueError, TypeError: see `pyrovae.data.Rows` and `pyrovae.pair.contract`; rows of another shape or
                dtype than those that the pair was inspected with; a data frame of other columns, or in another order,
                with their names.

        """
        whole = data[0] if len(data) == 1 and type(data[0]) in (Rows, tuple) else data
        given = whole if isinstance(whole, Rows) else Rows(whole, self.floats)
        with TURN:
            self._check(given)
        return given

    def _check(self, given: Rows) -> None:
        self._follow_parameters(given)
        if self._row_specs is not None:
            check_columns(given.columns, self._row_specs)
            self._follow_steps(given, self._row_specs)
            check_specs(given.arguments, self._row_specs)
        seen_complete = self._inspected and not self._saw_absence
        if not self._inspected:
            self._inspect(given)
        if given.absent and seen_complete and getattr(self.guide, "reads_presence", True) is False:
            warnings.warn(
                "rows lack entries (NaN), and this VAE's derived guide was made from rows that lack none: it takes "
                "absent entries for average ones, and log p(x) stays right but costs more draws. Make the VAE from "
                "rows with holes, VAE(model, example=x), and train it on them.",
                stacklevel=level_of_caller(),
            )
        if given.absent and not self._saw_absence:
            with same_random_state(self.device), self.evaluating():
                few = given.take(given.places_to_try(contract.PROBE_ROWS), self.device)
                contract.check_absence(self.model, self.guide, few)
        self._saw_absence |= given.absent

    def rows_in_support(self, *data: object) -> Rows:
        """Data as `rows` gives them, every value in the support of the likelihood.

        Raises:
            ValueError, TypeError: as `rows`; a value outside the support, with its row.

        """
        found = self.rows(*data)
        if self not in found.checked_by:
            with self.evaluating(), fixed_seed(0, self.device):
                for first, batch in found.in_blocks(self.device):
                    check_support(self.model, batch, range(first, first + len(batch)), found.columns)
            found.checked_by.add(self)
        return found

    def remember_columns(self, rows: Rows) -> None:
        """Keep the names of the columns that training goes by, if none are known.

        Raises:
            ValueError: others than those that are known.

        """
        given = specs_of(rows, ())
        self._row_specs = with_columns(self.row_specs, given)
        check_columns(tuple(spec and spec.columns for spec in given), self._row_specs)

    def check_rows(self, batch: Batch) -> None:
        """Raise ValueError or TypeError unless a batch has the dtypes and shapes of the first; values are not read."""
        specs = (
            self.row_specs if self.layout.num_steps is None else with_steps(self.row_specs, batch.arguments)
        )
        check_specs(batch.arguments, specs or self.row_specs)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, evaluation mode, own parameters, one thread; modes are restored afterwards."""
        with TURN:
            modes = [(module, module.training) for module in self.modules()]
            self.eval()
            try:
                with torch.no_grad(), self.scope():
                    yield
            finally:
                for module, training in modes:
                    module.training = training

    def _follow_parameters(self, given: Rows) -> None:
        """Take rows of another dtype, and look at the pair anew, where its parameters changed theirs, by `double`."""
        now = self.floats
        if self._row_specs is None or now is None or now == self._floats_seen:
            return
        followed = [
            spec._replace(dtype=now)
            if spec is not None
            and spec.dtype.is_floating_point
            and (
                spec.dtype == self._floats_seen
                or (self._floats_seen is None and getattr(argument, "dtype", None) == now)
            )
            else spec
            for spec, argument in zip(self._row_specs, given.arguments, strict=False)
        ]
        self._row_specs = [*followed, *self._row_specs[len(followed) :]]
        self._inspected, self._floats_seen = False, now

    def _follow_steps(self, given: Rows, known: RowSpecs) -> None:
        """Take sequences padded to another number of steps, and look at the pair anew, where the model takes them."""
        specs = with_steps(known, given.arguments)
        if specs is None or (self._inspected and self.layout.num_steps is None):
            return
        few = given.take(given.places_to_try(contract.PROBE_ROWS), self.device)
        try:
            with same_random_state(self.device), self.evaluating():
                taken = contract.num_steps_of(sites_of(self.model, few)) == given.x.shape[1]
        except Exception:  # rows of another shape, of which `check_specs` says what is wrong
            return
        if taken:
            self._row_specs, self._inspected = specs, False

    def _inspect(self, data: Rows) -> None:
        # Without a seed, what comes into being here goes on from torch's random state.
        with self._seeded(self._seed):
            self._look_at(data)

    @contextmanager
    def _seeded(self, seed: int | None) -> Iterator[None]:
        if seed is None:
            yield
        else:
            with fixed_seed(seed, self.device):
                yield

    def _look_at(self, data: Rows) -> None:
        places = data.places_to_try(contract.PROBE_ROWS)
        batch = data.take(places, self.device)
        first = data.take(data.places_to_try(ROWS_TO_BUILD_FROM), self.device)
        with self._learning() as learners:
            # Draws start from where torch's random state is, for a pair may make parameters here, and are put back.
            with same_random_state(self.device), self.evaluating():
                sites, _ = contract.inspect_model(self.model, batch)
            self._build_guide(first)
            with same_random_state(self.device), self.evaluating():
                if learners:
                    first_run("model", self.model, first)
                    # The last, for the model may run an encoder too, as a VampPrior does.
                    first_run("guide", self.guide, first)
                    for layer in learners:
                        layer.learning = False
                layout = contract.inspect_pair(self.model, self.guide, batch, places.tolist(), data.columns)
        warn_of_whole_numbers(sites, batch)
        if self._layout is not None:
            self._refuse_other_sites(self._layout, layout)
        self.warn_of_untrained_modules()
        self._layout, self._inspected, self._floats_seen = layout, True, self.floats
        known = self._row_specs
        lacking = first.lacking if known is None else [n for n, s in enumerate(known) if s and s.lacking]
        specs = specs_of(data, lacking)
        self._row_specs = specs if known is None else with_columns(specs, known)

    def _build_guide(self, batch: Batch) -> None:
        """A guide that is built from data, such as AutoGuide, has a method `build(x, *context)`."""
        build = getattr(self.guide, "build", None)
        if build is not None:
            with self.evaluating(), labels_explained("the model", batch):
                build(*batch.arguments)

    def _learning(self, *, keep: bool = True) -> AbstractContextManager[list[Standardize]]:
        """Inside, layers such as `pyrovae.nn.Standardize` take what they need from what they see."""
        return learning_first_data(*modules_of(self.model, self.guide), keep=keep)

    def _refuse_other_sites(self, of_file: Layout, own: Layout) -> None:
        there, here = of_file.families, own.families
        if there != here:
            raise ValueError(
                f"the file belongs to another pair: its sites are {str(there)[:1000]}, and this VAE's {here}."
            )
