"""Every test starts with a clean param store, validation on and a seed, and must leave them so."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def clean_slate():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    yield
    assert not dict(pyro.get_param_store()), "the test left parameters in the global store"
