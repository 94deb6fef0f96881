"""How many rows stand below the latents that all of them share: N of the training data, which scales a batch."""

from __future__ import annotations

from collections.abc import Sized

from torch.utils.data import IterableDataset

from pyrovae.pair.contract import PROBE_ROWS
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.training.batches import Batches, GatheredBatches, LoadedBatches
from pyrovae.vae import VAE


def rows_below(vae: VAE, batches: Batches) -> int | None:
    """N: of the data, or what the program's plate says where these do not know; None without shared latents.

    Raises:
        ValueError: the plate says another number than the data have, or nobody knows it.

    """
    shared = vae.layout.shared
    if not shared:
        return None
    num_rows, few = _number_of(batches), batches.few(PROBE_ROWS)
    with vae.evaluating(), fixed_seed(0, vae.device):
        sites = sites_of(vae.model, few)
    plates = (site.row_plate for name, site in sites.items() if name not in shared)
    plate = next(plate for plate in plates if plate is not None)
    declared = None if plate.full_size in (None, plate.size) else plate.full_size
    names = ", ".join(map(repr, shared))
    if num_rows is None and declared is None:
        raise ValueError(
            f"{names} are shared by all rows, and the data do not tell how many there are: they have no length. Say it "
            f"in the model and the guide, pyro.plate('{plate.name}', N, subsample_size=len(x))."
        )
    if num_rows is not None and declared not in (None, num_rows):
        raise ValueError(
            f"{names} are shared by all rows: plate '{plate.name}' says that these are {declared}, and the data have "
            f"{num_rows}. The posterior would be that of {declared} rows. Size the plate by the batch, "
            f"pyro.plate('{plate.name}', len(x)): the number of rows in training is known."
        )
    return num_rows or declared


def _number_of(batches: Batches) -> int | None:
    """N of the data; None where these do not know, as streams do not."""
    if isinstance(batches, GatheredBatches):
        return len(batches.data)
    data: object = batches.loader.dataset if isinstance(batches, LoadedBatches) else None
    is_stream = isinstance(data, IterableDataset)
    return len(data) if isinstance(data, Sized) and not is_stream else None
