"""The ELBO of held-out rows after each epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from pyrovae.block_sizes import ROWS_OF_A_PASS
from pyrovae.checks import said_of
from pyrovae.data import Rows
from pyrovae.evidence.bound import elbo_of
from pyrovae.evidence.checked_data import checked_data
from pyrovae.random_state import fixed_seed
from pyrovae.training.batches import Batches, Share, batches_of
from pyrovae.training.course import Transform
from pyrovae.vae import VAE


class Validation:
    """Held-out rows, and their mean ELBO from the same transforms and draws each time.

    So the curve of a history shows the change of the model and not of the noise. Rows are checked once, here.

    Raises:
        ValueError, TypeError: rows that do not fit the pair.

    """

    def __init__(self, vae: VAE, data: object, transform: Transform | None) -> None:
        self.vae = vae
        with said_of("validation data"):
            size = None if isinstance(data, DataLoader) else ROWS_OF_A_PASS
            self.batches: Batches = batches_of(vae, data, size, transform, Share())

    def mean_elbo(self, seed: int, stop: Callable[[], bool] = lambda: False) -> float | None:
        """In nats per row, from one draw of each; None where it shall stop before it is done."""
        total, count = 0.0, 0
        with fixed_seed(seed, self.vae.device):
            for minibatch in self.batches.epoch(seed):
                assert minibatch.batch is not None
                if stop():
                    return None
                draws = int(torch.randint(2**62, ()))
                known = Rows.of(minibatch.batch, checked_by=self.vae)
                data = checked_data(self.vae, known, covers_shared=True)
                found = elbo_of(self.vae, data, 1, draws)
                total, count = total + float(found.elbo.sum()), count + minibatch.num_rows
        return total / count
