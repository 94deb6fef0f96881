"""The latent map."""

import torch

from pyrovae import plots


def test_the_latent_map_names_its_axes():
    ax = plots.latent_map(torch.randn(9, 2), names=["log_ec50", "slope"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("E[log_ec50|x]", "E[slope|x]")
