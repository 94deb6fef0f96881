"""Posterior means as features, and their names."""

import torch

import pyrovae as pv
from pyrovae.exchange.features import feature_names
from tests.pairs import PAIRS, binary_rows


def test_features_of_several_sites_lie_side_by_side():
    make, context = PAIRS["methods"]
    vae, x = make(), binary_rows(8)
    torch.manual_seed(0)
    found = pv.features(vae, x, *context(8))
    torch.manual_seed(0)
    means = vae.encode(x, *context(8))
    assert torch.equal(found, torch.cat([means["a"], means["b"].unsqueeze(-1)], 1))
    assert feature_names(vae) == ["a[0]", "a[1]", "b"]
