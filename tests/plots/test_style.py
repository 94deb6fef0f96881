"""Colours that anyone can tell apart."""

import itertools

import numpy as np

from pyrovae.plots.style import COLOURS


def test_colours_differ_in_lightness_or_to_a_dichromat():
    # Viénot, Brettel & Mollon (1999): protanopia and deuteranopia as linear maps of linear RGB.
    hexes = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear_rgb = np.where(hexes <= 0.04045, hexes / 12.92, ((hexes + 0.055) / 1.055) ** 2.4)
    maps = {
        "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    }
    for kind, matrix in maps.items():
        seen = np.clip(linear_rgb @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        for a, b in itertools.combinations(range(len(COLOURS)), 2):
            assert np.abs(seen[a] - seen[b]).max() > 0.08, (kind, COLOURS[a], COLOURS[b])
