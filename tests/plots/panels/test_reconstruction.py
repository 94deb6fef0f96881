"""Reconstructions: the rows and their means, read back from the picture."""

import numpy as np

from pyrovae import plots


def test_reconstructions_are_the_pairs(linear):
    vae, x = linear
    page = plots.reconstructions(vae, x, image_shape=(4, 4), num_columns=3).images[0].get_array()
    first = np.asarray(page[1:5, 1:5], dtype=float)  # inside one pixel of gap
    below = np.asarray(page[7:11, 1:5], dtype=float)
    np.testing.assert_allclose(first.ravel(), x[0])
    np.testing.assert_allclose(below.ravel(), vae.reconstruct(x)[0])
