"""A VAE of a data frame as a scikit-learn estimator.

Needs scikit-learn to be imported: `from pyrovae.estimator import TabularVAE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.exchange.features import feature_names, features
from pyrovae.random_state import fixed_seed
from pyrovae.tables.asked import Asked
from pyrovae.tables.given import label_probabilities, without
from pyrovae.tables.parquet import ParquetRows
from pyrovae.tables.saved import SavedTable, Settings, load_table
from pyrovae.tables.schema import Schema, check_frame
from pyrovae.tables.strange import by_logarithms
from pyrovae.tables.training import Sizes, split, trained
from pyrovae.vae import VAE

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as problem:
    raise ModuleNotFoundError(
        'TabularVAE needs scikit-learn 1.6 or newer: pip install "pyrovae[sklearn]".', name="sklearn"
    ) from problem

if TYPE_CHECKING:
    from sklearn.utils import Tags


def _has_labels(table: TabularVAE) -> bool:
    schema = getattr(table, "schema_", None)
    return schema is not None and any(column.is_label for column in schema.modelled)


class TabularVAE(Asked, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A VAE of a data frame: numbers, counts, categories, dates, and holes.

    `fit` finds out what the columns hold (`pyrovae.tables.Schema`), makes a `MixedTableModel` of them with a guide that
    takes rows that lack entries, starts it at a factor analysis of the table, which is there in a second, and trains it
    by `pyrovae.fit` to what is not linear, with rows of its own to stop by. Then it fills in
    holes, draws rows, given some columns or none, tells how probable rows are, and which are strange. Everything is
    done by the model's own densities, what is absent being integrated out; `vae` is the VAE for all the rest.

    Arrays are taken too, as frames with columns "x0", "x1", ...

    Args:
        schema: what the columns hold, if it is not to be found out; edited, `schema["age"] = "count"`.
        make_vae: from a schema and values [N, D] to an untrained VAE of your own, whose model is a `MixedTableModel`
            or observes all columns at once. `latent_size` and `hidden` are then not used.
        latent_size: K; by the number of columns if None.
        hidden: sizes of the encoder's layers, and in reverse the decoder's; by the number of rows if None.
        epochs: at most so many; by the number of rows if None.
        batch_size: rows a step; by the number of rows if None.
        learning_rate: of Adam, at first.
        patience: epochs without a rise of the validation ELBO before training stops and goes back to the best
            weights; by the number of epochs if None.
        validation_fraction: of the rows, to stop by.
        calibration_fraction: of the rows, for the p-values of `outliers`: training and stopping do not see them.
        num_samples: weights for each row of `score_samples`, `outliers` and `predict_proba`.
        random_state: a whole number gives the same figures at each call, None others.
        device, progress: as `pyrovae.fit`.

    Attributes:
        vae_: the trained VAE, of rows as `schema_.to_tensor(frame)` gives them; `vae` is the same.
        schema_: what the columns hold.
        history_: what `pyrovae.fit` returned.
        held_out_scores_: of the calibration rows, as `outliers` scores them.
        n_features_in_, feature_names_in_: as elsewhere in scikit-learn.

    Raises:
        ValueError, TypeError: from `fit` on: fewer than four rows, columns that hold nothing that can be modelled
            (named, with what to do), fractions that leave nothing to train on; afterwards, frames with other columns,
            unknown labels, other dtypes.

    Example:
        >>> frame = pd.DataFrame({"age": [31, 50, 42, 19] * 10, "city": ["Bern", "Basel", None, "Bern"] * 10})
        >>> table = TabularVAE(epochs=2, random_state=0).fit(frame)
        >>> int(table.impute(frame).frame["city"].isna().sum())
        0
        >>> table.sample(3, given={"city": "Bern"})["city"].tolist()
        ['Bern', 'Bern', 'Bern']
        >>> table.predict_proba(frame, "city").columns.tolist()
        ['Basel', 'Bern']

    """

    def __init__(
        self,
        *,
        schema: Schema | None = None,
        make_vae: Callable[[Schema, Tensor], VAE] | None = None,
        latent_size: int | None = None,
        hidden: Sequence[int] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        calibration_fraction: float = 0.1,
        num_samples: int = 200,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        self.schema = schema
        self.make_vae = make_vae
        self.latent_size = latent_size
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.calibration_fraction = calibration_fraction
        self.num_samples = num_samples
        self.random_state = random_state
        self.device = device
        self.progress = progress

    history_: pd.DataFrame
    n_features_in_: int
    feature_names_in_: np.ndarray
    sizes_: tuple[int, tuple[int, ...]]

    @property
    def vae(self) -> VAE:
        """The trained VAE, of rows `schema_.to_tensor(frame)`: for all that pyrovae does beside."""
        check_is_fitted(self, "vae_")
        return self.vae_

    def fit(self, X: pd.DataFrame | npt.ArrayLike | str | os.PathLike[str], y: object = None) -> Self:
        """Train on the rows of a frame, or of a parquet file, which is read by row groups; `y` is not used.

        Of a file, needing pyarrow, some row groups are in memory at a time, and these rows are shuffled: rows that are
        sorted in the file want smaller groups. Held-out rows are taken from anywhere in it.
        """
        check_count("num_samples", self.num_samples)
        sizes = Sizes(
            self.latent_size,
            self.hidden,
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.patience,
            self.validation_fraction,
            self.calibration_fraction,
        )
        seed = self._seed()
        train: object
        if isinstance(X, str | os.PathLike):
            source = ParquetRows(X, self.schema, sizes, seed)
            self._checked(source.head, reset=True)
            schema, num_rows, train = source.schema, source.num_rows, source.loader()
            example, validation, held_out = source.example, source.validation, source.held_out
        else:
            frame = self._checked(X, reset=True)
            if len(frame) < 4:
                raise ValueError(
                    f"the frame has n_samples = {len(frame)}: a VAE needs at least 4 rows, and should have 100."
                )
            schema, num_rows = Schema.of(frame) if self.schema is None else self.schema, len(frame)
            train, validation, held_out = split(schema.to_tensor(frame), sizes, seed)
            example = train
        self.vae_, self.history_ = trained(
            schema,
            example,
            train,
            validation,
            num_rows,
            sizes,
            self.make_vae,
            seed,
            device=self.device,
            progress=self.progress,
        )
        self.schema_, self._held_out = schema, held_out
        self._held_out_cells = None
        self.sizes_ = sizes.of_model(num_rows, len(schema.modelled))
        logarithms = by_logarithms(schema, held_out).sum(1).numpy()
        self.held_out_scores_ = self._scores(held_out)[0] + logarithms if len(held_out) else np.empty(0)
        return self

    # What is asked of it, beside `Asked`

    def transform(self, X: pd.DataFrame | npt.ArrayLike) -> np.ndarray:
        """Posterior means E[z|x], [N, K]."""
        check_is_fitted(self, "vae_")
        values = self.schema_.to_tensor(self._checked(X))
        with fixed_seed(self._seed(), self.vae_.device):
            return features(self.vae_, values).cpu().numpy()

    @available_if(_has_labels)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: pd.DataFrame, column: str | int) -> pd.DataFrame:
        """p(column | all others) of a label for each row, [N, options], one column for each level.

        What the rows hold in the column is not looked at, and it may be left out.

        Raises:
            ValueError: a column of numbers, or a constant one; as `score_samples`.
            KeyError: no such column.

        """
        check_is_fitted(self, "vae_")
        if isinstance(X, pd.DataFrame):
            check_frame(X)
            X = without(self.schema_, column, X)
        return label_probabilities(
            self.vae_, self.schema_, column, self._checked(X), self.num_samples, self._seed()
        )

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, schema, settings and held-out scores to one safetensors file, atomically; no pickle, no rows.

        Raises:
            OSError: the file cannot be written; an older one is left as it was.

        """
        check_is_fitted(self, "vae_")
        names, state = getattr(self, "feature_names_in_", None), self.random_state
        settings: Settings = {
            "latent_size": self.sizes_[0],
            "hidden": list(self.sizes_[1]),
            "own_vae": self.make_vae is not None,
            "num_samples": self.num_samples,
            "random_state": int(state) if isinstance(state, int | np.integer) else None,
            "n_features_in": int(self.n_features_in_),
            "feature_names": None if names is None else list(map(str, names)),
        }
        cells = np.empty((0, len(self.schema_.modelled)))
        cells = self.held_out_cells() if len(self.held_out_scores_) else cells
        SavedTable(self.vae_, self.schema_, settings, self.held_out_scores_, cells).save(path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, make_vae: Callable[[Schema, Tensor], VAE] | None = None
    ) -> Self:
        """What `save` wrote, fitted.

        Args:
            path: the file.
            make_vae: the one that it was fitted with, if any.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another file, damaged, or of another architecture (`pyrovae.files.FileError`).

        """
        saved = load_table(path, make_vae)
        settings = saved.settings
        table = cls(
            make_vae=make_vae, num_samples=settings["num_samples"], random_state=settings["random_state"]
        )
        table.vae_, table.schema_, table.history_ = saved.vae, saved.schema, pd.DataFrame()
        table.sizes_ = settings["latent_size"], tuple(settings["hidden"])
        table.held_out_scores_, table._held_out_cells = saved.scores, saved.cells
        table._held_out = saved.schema.example()[:0]
        table.n_features_in_ = settings["n_features_in"]
        if settings["feature_names"] is not None:
            table.feature_names_in_ = np.asarray(settings["feature_names"], dtype=object)
        return table

    # For scikit-learn

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """The names of the columns of `transform`."""
        check_is_fitted(self, "vae_")
        return np.asarray(feature_names(self.vae_), dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.allow_nan = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "vae_")

    # Behind these

    def _checked(self, X: object, *, reset: bool = False) -> pd.DataFrame:
        if isinstance(X, pd.DataFrame):
            check_frame(X)
            try:
                validate_data(self, X, reset=reset, skip_check_array=True)
            except ValueError as error:
                if set(X.columns) != set(getattr(self, "feature_names_in_", ())):
                    raise
                raise ValueError(f"{error}Give frame[table.feature_names_in_].") from None
            return X
        array = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        return pd.DataFrame(array, columns=[f"x{place}" for place in range(array.shape[1])])

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))
