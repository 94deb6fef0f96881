"""Every test starts with a clean param store, validation on and a seed, and must leave them so.

`PYROVAE_DEVICE=cuda` runs the tests on that device: those of parts (the folders below) make their tensors and
modules there, and those of the functions that people call move each VAE there and give it data from the CPU.
"""

import os

import pyro
import pytest
import torch
from torch.overrides import TorchFunctionMode

import pyrovae

DEVICE = os.environ.get("PYROVAE_DEVICE")
FOLDERS_OF_PARTS = ("guides", "models", "objectives", "traced", "training")
# In these folders, but about what people call.
FILES_OF_USERS = ("test_fitting.py", "test_repeated.py")


@pytest.fixture(autouse=True)
def clean_slate():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    yield
    assert not dict(pyro.get_param_store()), "the test left parameters in the global store"


@pytest.fixture(autouse=True)
def nothing_compiled_before(monkeypatch, tmp_path_factory, request):
    """What is compiled in a test depends on no earlier one, nor on the machine."""
    remembered = tmp_path_factory.getbasetemp() / "compiled" / str(abs(hash(request.node.nodeid)))
    monkeypatch.setattr("pyrovae.traced.compiled_before._folder", lambda: remembered)


if DEVICE is not None:

    @pytest.fixture(autouse=True)
    def on_device(request, monkeypatch):
        if request.path.parent.name in FOLDERS_OF_PARTS and request.path.name not in FILES_OF_USERS:
            with torch.device(DEVICE), DrawnThenMoved():
                yield
        else:
            monkeypatch.setattr(pyrovae.VAE, "__init__", _then_moved(pyrovae.VAE.__init__))
            yield


class DrawnThenMoved(TorchFunctionMode):
    """Lets tests draw by generators of the CPU, for the same numbers on every device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        named = kwargs or {}
        generator = named.get("generator")
        if generator is None or "device" in named or any(isinstance(a, torch.Tensor) for a in args):
            return function(*args, **named)
        return function(*args, **named, device=generator.device).to(DEVICE)


def _then_moved(make):
    def make_and_move(vae, *arguments, **named):
        make(vae, *arguments, **named)
        vae.to(DEVICE)

    return make_and_move
