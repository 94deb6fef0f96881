"""The best epochs' weights, each in its file."""

import pytest
import torch

import pyrovae as pv
from pyrovae.callbacks import Callback, KeepBest
from tests.pairs import binary_rows, composed


class Told(Callback):
    """Gives each epoch a figure, and keeps its weights."""

    def __init__(self, figures):
        self.figures, self.weights = figures, {}

    def on_epoch(self, training, row):
        row["mine"] = self.figures[training.epoch - 1]
        self.weights[training.epoch] = flat(training.vae)


def flat(vae):
    return torch.cat([t.detach().flatten() for t in vae.tensors().values()])


def train(callbacks, epochs=5, **settings):
    torch.manual_seed(0)
    vae = composed()
    given = {"epochs": epochs, "batch_size": 8, "compile": False, "seed": 0, "progress": False} | settings
    pv.fit(vae, binary_rows(20), callbacks=callbacks, **given)
    return vae


@pytest.mark.parametrize("smallest", [False, True])
def test_the_best_epochs_by_a_figure_of_ones_own_are_kept_and_load(tmp_path, smallest):
    figures = [3.0, 1.0, float("nan"), 4.0, 3.0]
    told, best = Told(figures), KeepBest(tmp_path / "weights", 2, by="mine", smallest=smallest)
    train([told, best])
    kept = [(1.0, 2), (3.0, 1)] if smallest else [(4.0, 4), (3.0, 1)]  # of two equal ones the first
    assert [(figure, epoch) for figure, epoch, _ in best.best] == kept
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == sorted(
        f"epoch-{e}.vae" for _, e in kept
    )
    for _, epoch, path in best.best:
        assert torch.equal(flat(composed().load(path)), told.weights[epoch])


def test_by_the_validation_elbo_unless_told_otherwise(tmp_path):
    best = KeepBest(tmp_path)
    train([best], validation=binary_rows(10))
    ((figure, epoch, path),) = best.best
    assert path.name == f"epoch-{epoch}.vae"
    found = float(pv.elbo(composed().load(path), binary_rows(10), num_samples=200, seed=0).elbo.mean())
    assert abs(found - figure) < 0.5


def test_a_resumed_training_keeps_what_a_whole_one_does(tmp_path):
    figures = [5.0, 1.0, 2.0, 6.0, 0.0]
    whole, first, again = (KeepBest(tmp_path / f, 2, by="mine") for f in ("whole", "parts", "parts"))
    train([Told(figures), whole])
    checkpoint = {"checkpoint": tmp_path / "training", "resume": True}
    train([Told(figures), first], epochs=3, **checkpoint)
    train([Told(figures), again], **checkpoint)
    assert [kept[:2] for kept in again.best] == [kept[:2] for kept in whole.best] == [(6.0, 4), (5.0, 1)]
    for _, _, path in whole.best:
        assert torch.equal(flat(composed().load(path)), flat(composed().load(tmp_path / "parts" / path.name)))
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="num_kept is 0"):
        KeepBest(tmp_path, 0)
    with pytest.raises(ValueError, match=r"give fit\(\.\.\., validation=\.\.\.\) too"):
        train([KeepBest(tmp_path)])
    with pytest.raises(ValueError, match="chooses by 'mine', and the history's columns are epoch, loss"):
        train([KeepBest(tmp_path, by="mine"), Told([0.0] * 5)])
    train([KeepBest(tmp_path, by="loss", smallest=True)])
    with pytest.raises(ValueError, match=r"epoch-\d\.vae is there already, of an earlier training"):
        train([KeepBest(tmp_path, by="loss")])
