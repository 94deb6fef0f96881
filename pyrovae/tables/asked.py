"""What a fitted table is asked: to fill in holes, to draw rows, how probable and how strange rows are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.evidence.marginal import log_marginal
from pyrovae.tables.given import Given, drawn_given, given_row
from pyrovae.tables.imputed import ImputedFrame, imputed
from pyrovae.tables.mixed import as_table
from pyrovae.tables.schema import Schema
from pyrovae.tables.strange import Outliers, by_logarithms, cell_scores, outliers
from pyrovae.vae import VAE

# Held-out rows whose entries are scored one by one.
_ROWS_OF_CELLS = 200


class Asked(ABC):
    """The questions to a fitted `TabularVAE`, each a few lines of pyrovae's parts around its VAE and schema."""

    vae_: VAE
    schema_: Schema
    held_out_scores_: np.ndarray
    num_samples: int
    _held_out: Tensor
    _held_out_cells: np.ndarray | None

    @property
    @abstractmethod
    def vae(self) -> VAE:
        """The trained VAE; raises where there is none."""

    @abstractmethod
    def _checked(self, X: object) -> pd.DataFrame:
        """Rows as a frame, of the columns of the fit."""

    @abstractmethod
    def _seed(self) -> int:
        """Of the next draws."""

    def impute(
        self,
        X: pd.DataFrame | npt.ArrayLike,
        *,
        probability: float = 0.9,
        num_samples: int = 500,
        num_draws: int = 5,
    ) -> ImputedFrame:
        """Fill in the holes, by p(x_absent | x_observed): a frame, intervals, and frames of draws.

        Numbers stay within those that the fit has seen.

        Args:
            X: rows, of which some lack entries.
            probability: of the intervals.
            num_samples: S, draws for each row that intervals are made of; four times as many are weighed.
            num_draws: completed frames that are kept of them.

        Raises:
            ValueError: a probability not between 0 and 1, counts below 1 or more draws than samples; rows that lack
                everything; as `fit`.

        """
        check_count("num_samples", num_samples)
        if not 0 < probability < 1:
            raise ValueError(f"probability is {probability!r}: expected a number between 0 and 1.")
        if not 0 <= num_draws <= num_samples:
            raise ValueError(f"num_draws is {num_draws}: expected 0 to num_samples, {num_samples}.")
        return imputed(
            self.vae,
            self.schema_,
            self._checked(X),
            probability=probability,
            num_samples=num_samples,
            num_draws=num_draws,
            seed=self._seed(),
        )

    def sample(self, n_samples: int = 1, *, given: Mapping[str | int, Given] | None = None) -> pd.DataFrame:
        """Draw rows from the model, or from p(the other columns | some columns).

        The condition holds exactly, and draws are of the conditional by importance resampling, as in `pyrovae.impute`:
        no rows are drawn and thrown away, however rare the condition. Latents are proposed by the guide and by the
        prior; where Pareto k says that they do not do, by the guide refined for what is given.

        Args:
            n_samples: how many rows.
            given: values by column; dates may be texts, "2024-05-01".

        Raises:
            ValueError: `n_samples` below 1; columns that there are not, unknown labels, texts that are no dates, all
                columns at once.

        Warns:
            UserWarning: Pareto k says that the draws do not do.

        """
        check_count("n_samples", n_samples)
        if not given:
            drawn = as_table(self.vae, self.vae.generate(n_samples, seed=self._seed()))
            return self.schema_.to_frame(drawn)
        row = given_row(self.schema_, given)
        return drawn_given(self.vae, self.schema_, row, n_samples, self._seed())

    @overload
    def score_samples(
        self, X: pd.DataFrame | npt.ArrayLike, *, return_error: Literal[False] = False
    ) -> np.ndarray: ...
    @overload
    def score_samples(
        self, X: pd.DataFrame | npt.ArrayLike, *, return_error: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def score_samples(
        self, X: pd.DataFrame | npt.ArrayLike, *, return_error: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """log p(x) of each row in nats, in the units of the table, [N]; what a row lacks is integrated out.

        Args:
            X: rows.
            return_error: give the Monte Carlo standard errors too, [N]; the estimate errs low, see
                `pyrovae.log_marginal`.

        """
        found, error = self._scores(self.schema_.to_tensor(self._checked(X)))
        return (found, error) if return_error else found

    def score(self, X: pd.DataFrame | npt.ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`, in nats per row; `y` is not used."""
        return float(self.score_samples(X).mean())

    def outliers(self, X: pd.DataFrame | npt.ArrayLike, *, look_into: float = 0.1) -> Outliers:
        """How strange rows are, with p-values against rows that training has not seen, and which entries make them so.

        p = (1 + number of held-out rows that are at most as probable) / (number of held-out rows + 1): of rows that
        come from what the held-out ones come from, at most a share a has p <= a, whatever the model is worth. Rows are
        scored by log p(x), positive columns by their logarithms, and entries by that of each given the others of its
        row, against the same entries of held-out rows.

        Args:
            X: rows.
            look_into: rows whose p-value is at most this have their entries scored.

        Raises:
            ValueError: no held-out rows, `calibration_fraction=0`; as `score_samples`.

        """
        if not len(self.held_out_scores_):
            raise ValueError(
                "there are no held-out rows to compare with: fit with a calibration_fraction above 0, such as 0.1."
            )
        frame = self._checked(X)
        return outliers(
            self.vae,
            self.schema_,
            frame,
            self._scores(self.schema_.to_tensor(frame)),
            self.held_out_scores_,
            self.held_out_cells,
            look_into=look_into,
            num_samples=self.num_samples,
            seed=self._seed(),
        )

    def held_out_cells(self) -> np.ndarray:
        """The score of each entry given the others of its row, of held-out rows, [C, D]; 200 rows at most."""
        if self._held_out_cells is None:
            few = self._held_out[:_ROWS_OF_CELLS]
            cells = cell_scores(self.vae, few, self.num_samples, self._seed())
            self._held_out_cells = (cells + by_logarithms(self.schema_, few)).numpy()
        return self._held_out_cells

    def _scores(self, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        if bool((empty := values.isnan().all(1)).any()):
            raise ValueError(
                f"row {int(empty.nonzero()[0, 0])} has no value in any column ({int(empty.sum())} such rows): there is "
                "nothing to score. Drop such rows, frame.dropna(how='all')."
            )
        found = log_marginal(self.vae, values, num_samples=self.num_samples, seed=self._seed())
        return found.log_marginal.numpy(), found.std_error.numpy()
