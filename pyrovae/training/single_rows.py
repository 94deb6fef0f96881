"""Batches of one row, which batch normalization cannot normalize by: found before the first step."""

from __future__ import annotations

from collections.abc import Sized

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyrovae.random_state import fixed_seed
from pyrovae.training.batch_loss import BatchLoss
from pyrovae.training.batches import Batches, GatheredBatches, LoadedBatches, Share
from pyrovae.training.nonfinite import Snapshot
from pyrovae.vae import VAE

_OF_TORCH = "Expected more than 1 value per channel when training"


def refuse_single_rows(vae: VAE, batches: Batches, loss: BatchLoss, share: Share) -> None:
    """Run the loss on one row, where one will come alone and batches are normalized; leaves no trace.

    Raises:
        ValueError: it cannot be normalized; says which module and what to do.

    """
    norms = [name for name, m in vae.named_modules() if isinstance(m, _BatchNorm) and m.training]
    whole = sorted(_sizes(batches), reverse=True)
    alone = [size for size in whole for rank in range(share.of) if len(range(rank, size, share.of)) == 1]
    trained: list[Tensor] = [p for p in vae.parameters() if p.requires_grad]
    if not norms or not alone or not trained:
        return
    before = Snapshot(list(vae.buffers()))
    try:
        with fixed_seed(0, vae.device), vae.scope():
            loss.statistics_and_gradients(batches.few(1), trained, 1.0)
    except ValueError as error:
        if _OF_TORCH not in str(error):
            raise
        among = "" if share.of == 1 else f", of which one of {share.of} processes has one alone"
        raise ValueError(
            f"batches have {' and '.join(map(str, whole))} rows{among}, and '{norms[0]}' normalizes by the batch: one "
            "row alone has no variance. Take another batch_size, leave a row out, give a DataLoader with "
            "drop_last=True, or put the module into eval mode."
        ) from error
    finally:
        before.put_back()


def _sizes(batches: Batches) -> set[int]:
    """The numbers of rows that batches will have, as far as that is known."""
    found = {batches.batch_size}
    if isinstance(batches, GatheredBatches):
        found.add(len(batches.data) % batches.batch_size)
    elif isinstance(batches, LoadedBatches):
        loader = batches.loader
        if loader.batch_size is not None and not loader.drop_last and isinstance(loader.sampler, Sized):
            found.add(len(loader.sampler) % loader.batch_size)
    return found - {0}
