"""How a table's VAE is trained, if nothing else is said: sizes by rows and columns, with rows of its own to stop by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.objectives import ELBO
from pyrovae.random_state import fixed_seed
from pyrovae.tables.building import make_vae, thinned
from pyrovae.tables.mixed import check_model
from pyrovae.tables.schema import Schema
from pyrovae.tables.starting import start_from_factors
from pyrovae.training.callbacks import EarlyStopping
from pyrovae.training.fitting import fit
from pyrovae.vae import VAE

# Rows that are held out at most: more of them tell no more.
_MOST_HELD_OUT = 5_000
# Steps of the optimizer, at most, if epochs are not said.
_STEPS = 3_000
_FEWEST_EPOCHS = 20


@dataclass(frozen=True)
class Sizes:
    """The settings of a training, as `TabularVAE` explains them; what is None follows from the table."""

    latent_size: int | None
    hidden: Sequence[int] | None
    epochs: int | None
    batch_size: int | None
    learning_rate: float
    patience: int | None
    validation_fraction: float
    calibration_fraction: float

    def __post_init__(self) -> None:
        for name in ("latent_size", "epochs", "batch_size", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: expected a positive number.")
        if not (0 < self.validation_fraction < 1 and 0 <= self.calibration_fraction < 1):
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} and calibration_fraction "
                f"{self.calibration_fraction}: expected shares of the rows, the first above 0, both below 1."
            )
        if self.validation_fraction + self.calibration_fraction >= 1:
            raise ValueError(
                "validation_fraction and calibration_fraction leave no rows to train on: expected less than 1 together."
            )

    def of_model(self, num_rows: int, num_columns: int) -> tuple[int, tuple[int, ...]]:
        """K, and the sizes of hidden layers."""
        latent_size = self.latent_size or max(2, min(num_columns // 2 + 1, 16))
        width = 64 if num_rows < 2_000 else 128 if num_rows < 50_000 else 256
        return latent_size, tuple(self.hidden) if self.hidden is not None else (width, width)

    def of_course(self, num_rows: int) -> tuple[int, int, int]:
        """Batch size, epochs and patience."""
        batch_size = self.batch_size or min(max(32, 2 ** round(math.log2(max(1, num_rows / 20)))), 512)
        steps = math.ceil(num_rows / batch_size)
        epochs = self.epochs or max(_FEWEST_EPOCHS, min(1000, _STEPS // steps))
        return batch_size, epochs, self.patience or max(5, epochs // 10)

    def held_out(self, num_rows: int) -> tuple[int, int]:
        """How many rows to stop by, and for p-values."""
        validation = min(max(1, round(self.validation_fraction * num_rows)), _MOST_HELD_OUT)
        calibration = min(round(self.calibration_fraction * num_rows), _MOST_HELD_OUT)
        return validation, max(1, calibration) if self.calibration_fraction else 0


def split(values: Tensor, sizes: Sizes, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [N, D] to train on, to stop by, and that neither sees, at random.

    Rows that lack everything are left out: they say nothing.

    Raises:
        ValueError: no row is left to train on.

    """
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    some = values[order]
    some = some[~some.isnan().all(1)]
    num_validation, num_calibration = sizes.held_out(len(some))
    num_train = len(some) - num_validation - num_calibration
    if num_train < 1:
        raise ValueError(f"{len(some)} rows that hold something leave none to train on: give more rows.")
    held_out, validation, train = some.split([num_calibration, num_validation, num_train])
    return train, validation, held_out


def trained(
    schema: Schema,
    example: Tensor,
    train: object,
    validation: Tensor,
    num_rows: int,
    sizes: Sizes,
    make: Callable[[Schema, Tensor], VAE] | None,
    seed: int,
    *,
    device: str | torch.device | None,
    progress: bool,
) -> tuple[VAE, pd.DataFrame]:
    """A VAE and the history of its training.

    Args:
        schema: of the table.
        example: rows to take centres, sizes and the factor analysis from, [N, D].
        train: the rows to train on, [N, D], or a loader of such.
        validation: the rows to stop by.
        num_rows: of the whole table.
        sizes: the settings.
        make: what makes the VAE, if not `make_vae`.
        seed: as `pyrovae.fit`.
        device: as `pyrovae.fit`.
        progress: as `pyrovae.fit`.

    """
    batch_size, epochs, patience = sizes.of_course(num_rows)
    with fixed_seed(seed, torch.device("cpu")):
        if make is None:
            vae = make_vae(schema, example, *sizes.of_model(num_rows, len(schema.modelled)))
            start_from_factors(vae, example)
        else:
            vae = make(schema, example)
        vae = check_model(vae, example)
        history = fit(
            vae,
            train,
            epochs=epochs,
            batch_size=batch_size if isinstance(train, Tensor) else None,
            objective=ELBO(),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=sizes.learning_rate),
            clip_norm=10.0,
            validation=validation,
            transform=thinned,
            callbacks=[EarlyStopping(patience)],
            seed=seed,
            device=device,
            progress=progress,
        )
    return vae, history
