"""What of rows is discrete: how many numbers, by which log p(x) becomes bits per dimension, and which sites."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.observed import observations_of, statements
from pyrovae.random_state import fixed_seed
from pyrovae.vae import VAE


def discrete_dimensions(vae: VAE, data: Rows) -> Tensor | str:
    """How many discrete numbers of each row are observed, [N], or why there is no such count."""
    counts = []
    for _, batch in data.in_blocks(vae.device):
        with vae.evaluating(), fixed_seed(0, vae.device):
            observations = observations_of(vae, batch)
        for name, observation in observations.items():
            if not observation.discrete:
                return (
                    f"'{name}' ({observation.site.family}) has a density, whose value depends on the "
                    "unit of the data: only probabilities of discrete data are lengths of a code"
                )
        counts.append(torch.stack([observation.dimensions for observation in observations.values()]).sum(0))
    return torch.cat(counts)


def others_discrete(vae: VAE, data: Rows, given: Sequence[str]) -> bool:
    """Whether all statements but the given ones observe what has a probability, which is at most one."""
    with vae.evaluating(), fixed_seed(0, vae.device):
        observations = observations_of(vae, data.take(slice(0, 1), vae.device))
    others = [statement.observed for name, statement in statements(vae.layout).items() if name not in given]
    return all(name in observations and observations[name].discrete for name in others)
