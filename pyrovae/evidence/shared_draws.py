"""A VAE at one draw after the other of the latents that its rows share, theta ~ q(theta)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyrovae.data import Rows
from pyrovae.pair.shared import SharedTerms, draw_shared
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE


class SharedDraws:
    """R independent draws of theta, and the VAE held at each, in turn.

    Args:
        vae: with shared latents.
        data: rows that it takes.
        num_draws: R.
        seed: of the draws.

    """

    def __init__(self, vae: VAE, data: Rows, num_draws: int, seed: int) -> None:
        few = data.take(slice(0, 1), vae.device)
        with vae.evaluating(), fixed_seed(seed, vae.device):
            self.draws: list[SharedTerms] = [draw_shared(vae, few) for _ in range(num_draws)]
        self.vae = vae.held(self.draws[0].values)

    def __len__(self) -> int:
        """R."""
        return len(self.draws)

    def __iter__(self) -> Iterator[VAE]:
        """The same VAE at each draw."""
        for draw in self.draws:
            with torch.no_grad():
                self.vae.hold(draw.values)
            yield self.vae
