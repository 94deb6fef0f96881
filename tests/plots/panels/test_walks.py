"""Walks through latent space, read back from the picture."""

import numpy as np
import pytest
import torch

from pyrovae import plots
from tests.plots.examples import labels_of, of_groups


def test_traversals_change_one_dimension(linear):
    vae, x = linear
    page = plots.traversals(vae, x, dimensions=[1], num_steps=5, seed=0).images[0].get_array()
    means = vae.encode(x)
    slopes = np.diff(np.asarray(page, dtype=float), axis=0)
    direction = vae.model.W[:, 1].detach().numpy()  # the decoder is linear
    for slope in slopes:
        np.testing.assert_allclose(slope / slope[0], direction / direction[0], rtol=1e-6)
    draws = means[:, 1]
    step = slopes[0][0] / direction[0] * 4
    assert float(draws.max() - draws.min()) * 0.5 < step < 3 * float(draws.max() - draws.min())


def test_traversals_of_strips_say_what_moves(linear):
    ax = plots.traversals(*linear, dimensions=[0, 2], num_steps=5, seed=0)
    assert [label.split("\n")[0] for label in labels_of(ax)] == ["z[0]", "z[2]"]
    np.testing.assert_allclose(ax.get_yticks(), [2, 7])  # the middles of five strips each


@pytest.mark.parametrize("shape", [None, (4, 4)])
def test_the_range_over_which_a_latent_moves_stands_beside_its_line(linear, shape):
    vae, x = linear
    ax = plots.traversals(vae, x, dimensions=[1], num_steps=5, seed=0, image_shape=shape)
    name, said = labels_of(ax)[0].split("\n")
    low, high = map(float, said.split(" to "))
    draws = vae.sample_posterior(x, num_samples=200)[next(iter(vae.layout.latents))][..., 1]
    assert name == "z[1]"
    assert draws.min() < low < draws.quantile(0.2)
    assert draws.quantile(0.8) < high < draws.max()


def test_interpolation_begins_and_ends_at_the_rows(linear):
    vae, x = linear
    page = np.asarray(
        plots.interpolation(vae, x, num_pairs=1, num_steps=3).images[0].get_array(), dtype=float
    )
    a, b = vae.reconstruct(x[:2])
    for shown, expected in zip(page, [x[0], a, (a + b) / 2, b, x[1]], strict=True):
        np.testing.assert_allclose(shown, expected)


def test_interpolation_mixes_the_rows_draws():
    x = torch.tensor([[-2.0] * 4, [2.0] * 4])  # each row's group is certain
    vae = of_groups()
    page = plots.interpolation(vae, x, num_pairs=1, num_steps=5).images[0].get_array()
    means = vae.encode(x)["shift"]
    for step, share in enumerate([0.0, 0.25, 0.5, 0.75, 1.0], 1):
        expected = torch.lerp(means[0], means[1], share) - 2 * (1 - share) + 2 * share
        np.testing.assert_allclose(page[step], expected.expand(4), atol=1e-5)
