"""Batch normalization, and a batch of one row: refused before the first step, where it could not be normalized."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.callbacks import Callback
from pyrovae.training.batches import Share
from pyrovae.training.processes import Processes
from tests.pairs import binary_rows


class Stepped(Callback):
    steps = 0

    def on_step(self, training):
        Stepped.steps += 1


@pytest.fixture(autouse=True)
def no_steps():
    Stepped.steps = 0


def normed(*layers, D=6):
    layers = layers or (nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), pv.nn.MLP(8, (2, 2)))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, D)))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(nn.Sequential(*layers))))


def fit(vae, data, **settings):
    return pv.fit(vae, data, epochs=1, progress=False, seed=0, callbacks=[Stepped()], **settings)


ALONE = r"batches have 8 and 1 rows, and 'guide\..*1' normalizes by the batch: one row alone has no variance"


def loader(**settings):
    return DataLoader(TensorDataset(binary_rows(17)), batch_size=8, **settings)


@pytest.mark.parametrize("data", [binary_rows(17), loader()], ids=["rows", "loader"])
def test_a_last_batch_of_one_row_is_found_before_the_first_step(data):
    vae = normed()
    vae.rows(binary_rows(4))
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.raises(ValueError, match=ALONE):
        fit(vae, data, **({"batch_size": 8} if isinstance(data, torch.Tensor) else {}))
    assert Stepped.steps == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


def test_batches_of_one_row_each():
    with pytest.raises(ValueError, match="batches have 1 rows, and"):
        fit(normed(), binary_rows(5), batch_size=1)


def test_a_share_of_one_row(monkeypatch):
    class Two(Processes):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.share = Share(0, 2)

    monkeypatch.setattr("pyrovae.training.settings.Processes", Two)
    with pytest.raises(ValueError, match="of which one of 2 processes has one alone"):
        fit(normed(), binary_rows(19), batch_size=8)


def of_images():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.2), nn.Flatten(), pv.nn.MLP(16, (2, 2)))
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, (1, 4, 4)))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(decoder))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)))


def test_what_can_be_normalized_trains(monkeypatch):
    images, trained = binary_rows(17, 16).reshape(17, 1, 4, 4), []
    for tried in (True, False):
        if not tried:
            monkeypatch.setattr("pyrovae.training.parts.refuse_single_rows", lambda *arguments: None)
        vae = of_images()
        fit(vae, images, batch_size=8)  # one image has many pixels
        trained.append(vae.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert Stepped.steps == 2 * 3


def test_running_statistics_and_dropped_rows():
    frozen = normed().eval()
    fit(frozen, binary_rows(17), batch_size=8)
    fit(normed(), loader(drop_last=True))
    assert Stepped.steps == 3 + 2
