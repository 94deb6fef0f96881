"""Data on their way into an evaluation: made to `Rows`, checked and moved, each once."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.above_rows import refuse_shared
from pyrovae.pair.inspected import refuse_other_than_vae
from pyrovae.vae import VAE

# Of a GPU's free memory, what data may take that go there as a whole.
SHARE_OF_FREE_MEMORY = 0.5


def checked_data(
    vae: VAE, x: object, *context: object, covers_shared: bool = False, what: str = "this"
) -> Rows:
    """Data that fit the pair and lie in the support of its likelihood, on its device if they fit there.

    Rows that have come this way for this VAE before are neither checked nor moved again. `covers_shared` says whether
    they are for what does right by latents that rows share, or else `what` is named.

    Raises:
        ValueError, TypeError: as `VAE.rows_in_support`; something else than a VAE; shared latents, where these are not
            covered (says what to do).

    """
    refuse_other_than_vae(vae)
    data = vae.rows(x, *context)
    if not covers_shared:
        refuse_shared(vae, what)
    if fits_on(vae.device, data):
        data = data.to(vae.device)
    return vae.rows_in_support(data)


def refuse_without_density(vae: VAE) -> None:
    """Raise, before any work, where the guide has no density q(z|x); see `pyrovae.pair.guide_density`."""
    if vae.layout.without_density:
        raise ValueError(vae.layout.without_density)


def fits_on(device: torch.device, data: Rows) -> bool:
    """Whether a device can take these data as a whole; what is on disk stays there."""
    moving = [a for a in data.arguments if isinstance(a, Tensor) and a.device != device]
    if device.type != "cuda" or not moving:
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.numel() * tensor.itemsize for tensor in moving) <= SHARE_OF_FREE_MEMORY * free
