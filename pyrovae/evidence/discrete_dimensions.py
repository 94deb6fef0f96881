"""How many discrete numbers rows have, by which log p(x) becomes bits per dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.observed import observations_of
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
