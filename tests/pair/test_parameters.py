"""The scope of a pair: where the tensors that its programs make come to lie."""

import pyro.distributions as dist
import pytest
import torch

from tests.pairs import composed


def test_programs_make_their_tensors_where_their_parameters_are():
    # Of the devices, one whose tensors hold no values is on every machine.
    vae = composed().to("meta")
    assert vae.device.type == "meta"
    with vae.scope():
        assert torch.get_default_device().type == "meta"
        assert torch.zeros(3).device.type == "meta"
        standard = dist.Normal(0.0, 1.0, validate_args=False).expand([8])
        assert standard.rsample().device.type == "meta"
    assert torch.get_default_device().type == "cpu"


def test_an_error_inside_leaves_torchs_default_as_it_was():
    with pytest.raises(KeyError), composed().to("meta").scope():
        raise KeyError
    assert torch.zeros(1).device.type == "cpu"
