"""What the seed of a training decides, each thing by a seed of its own."""

from __future__ import annotations

from dataclasses import dataclass

from pyrovae.random_state import drawn_seed, seed_of


@dataclass(frozen=True)
class Seeds:
    """The seeds of one training, all from one.

    Example:
        >>> Seeds(0).order(epoch=1) == Seeds(0).order(epoch=1), Seeds(0).noise(rank=0) == Seeds(0).noise(rank=1)
        (True, False)

    """

    seed: int

    @classmethod
    def of(cls, seed: int | None) -> Seeds:
        """Those of a seed; None draws one from torch's random state."""
        return cls(drawn_seed() if seed is None else seed)

    def order(self, epoch: int) -> int:
        """Of an epoch's order of rows, one for all processes."""
        return seed_of(seed_of(self.seed, 0), epoch)

    @property
    def validation(self) -> int:
        """Of the draws and transforms of validation rows, the same after every epoch."""
        return seed_of(self.seed, 1)

    @property
    def parts(self) -> int:
        """Of what is drawn before the first step, such as the first weights of a derived guide."""
        return seed_of(self.seed, 2)

    def noise(self, rank: int) -> int:
        """Of the latents that a process draws."""
        return seed_of(self.seed, 3 + rank)
