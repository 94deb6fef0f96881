"""What a saved training is compared with before it is used: moments by name, shape and dtype, and every other part."""

import json
import warnings

import pytest
import torch

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping
from pyrovae.files import FileError, load_tensors, save_tensors
from pyrovae.training.state_tree import pack, unpack
from tests.pairs import binary_rows, composed


def trained(path, epochs=2, make=lambda: composed(hidden=[3]), vae=None, **settings):
    given = {"batch_size": 8, "seed": 0, "progress": False, "compile": False, "resume": True} | settings
    return pv.fit(vae or make(), binary_rows(16), epochs=epochs, checkpoint=path, **given)


def altered(path, change):
    """The file with another state, which its checksum covers."""
    tensors, facts = load_tensors(path, "training")
    state = unpack(facts["state"], tensors)
    change(state)
    tensors, packed = pack(state)
    save_tensors(path, "training", tensors, {**facts, "state": packed})


def refused(path, **settings):
    """The error, and nothing of VAE and optimizer changed."""
    vae = settings.pop("vae", None) or composed(hidden=[3])
    vae.rows(binary_rows())
    weights = {n: t.detach().clone() for n, t in vae.tensors().items()}
    noise = torch.get_rng_state()
    with pytest.raises(FileError) as caught:
        trained(path, vae=vae, epochs=3, **settings)
    assert all(torch.equal(t, weights[n]) for n, t in vae.tensors().items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert caught.value.path == path
    assert caught.value.field in str(caught.value)
    return caught.value


def test_parameters_in_another_order_are_refused_by_name(tmp_path):
    path = tmp_path / "training"
    adam = lambda p: torch.optim.Adam(p, lr=1e-3, fused=True)  # noqa: E731
    trained(path, optimizer=adam)
    backwards = refused(path, optimizer=lambda p: adam(list(p)[::-1]))
    assert backwards.field == "parameters"
    assert "'model.likelihood.network.body.0.weight' in place 0 of the optimizer, where 'guide" in str(
        backwards
    )


MOMENTS = {
    "shape": lambda s: s["exp_avg"][:1],
    "dtype": lambda s: s["exp_avg"].double(),
    "kind": lambda s: 3,
    "step": lambda s: torch.tensor(float("nan")),
}


@pytest.mark.parametrize("what", MOMENTS)
def test_an_altered_moment_is_refused(tmp_path, what):
    path, key = tmp_path / "training", "step" if what == "step" else "exp_avg"
    trained(path)

    def change(state):
        moments = state["optimizer"]["state"][0]
        moments[key] = MOMENTS[what](moments)

    altered(path, change)
    assert refused(path).field == f"optimizer.state.model.likelihood.network.body.0.weight.{key}"


PARTS = {
    "moments of no parameter": lambda s: s["optimizer"]["state"].update({99: {}}),
    "no moments by name": lambda s: s["optimizer"]["state"][0].pop("exp_avg"),
    "another kernel's setting": lambda s: s["optimizer"]["param_groups"][0].update(amsgrad=True),
    "no learning rate": lambda s: s["optimizer"]["param_groups"][0].pop("lr"),
    "a learning rate that is none": lambda s: s["optimizer"]["param_groups"][0].update(lr=float("nan")),
    "no groups": lambda s: s["optimizer"].update(param_groups=[]),
    "no optimizer": lambda s: s.pop("optimizer"),
    "a method": lambda s: s["scheduler"].update(step=1),
    "no place in the schedule": lambda s: s["scheduler"].pop("last_epoch"),
    "weights that are no numbers": lambda s: next(iter(s["weights"].values())).fill_(torch.nan),
    "other weights": lambda s: s["weights"].popitem(),
    "an early stop of another kind": lambda s: s["callbacks"][0].update(best="high"),
    "no callback": lambda s: s["callbacks"].clear(),
    "a count below 0": lambda s: s.update(step=-1),
    "a count that is none": lambda s: s.update(epoch=True),
    "more history than epochs": lambda s: s["history"]["loss"].append(1.0),
    "no random state": lambda s: s.update(noises=[torch.zeros(5056, dtype=torch.uint8)]),
    "half a random state": lambda s: s.update(noises=[s["noises"][0][:100]]),
    "norms of no steps": lambda s: s.update(gradient_norms=(-1, s["gradient_norms"][1])),
    "norms that are one number": lambda s: s.update(gradient_norms=(1, torch.tensor(1.0))),
    "fewer sums": lambda s: s.update(totals=([0.0], 0)),
    "an engine of another kind": lambda s: s["engine"].update(shapes=3),
}


@pytest.mark.parametrize("what", PARTS)
def test_each_part_is_compared_before_any_is_used(tmp_path, what):
    settings = {
        "validation": binary_rows(),
        "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
        "callbacks": [EarlyStopping()],
    }
    path = tmp_path / "training"
    trained(path, **settings)
    altered(path, PARTS[what])
    refused(path, **settings)


def optimizers():
    """All of torch's that step once, with settings that make all the state that they can have."""
    made = {name: getattr(torch.optim, name) for name in dir(torch.optim)}
    found = {
        name: kind
        for name, kind in made.items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    for none in ("Optimizer", "LBFGS", "SparseAdam", "Muon"):  # of matrices alone, or of sparse gradients
        found.pop(none, None)
    variants = {
        "Adam": [{"amsgrad": True}, {"fused": True}, {"capturable": False, "foreach": True}],
        "SGD": [{"lr": 0.01}, {"lr": 0.01, "momentum": 0.9}, {"lr": 0.01, "momentum": 0.9, "fused": True}],
        "RMSprop": [{"momentum": 0.9, "centered": True}],
    }
    return [(make, settings) for name, make in found.items() for settings in variants.get(name, [{}])]


@pytest.mark.parametrize("make, settings", optimizers(), ids=lambda v: getattr(v, "__name__", str(v)))
def test_every_optimizer_goes_on_as_it_was_left(tmp_path, make, settings):
    def ended(path, *epochs):
        torch.manual_seed(0)
        for last in epochs:
            vae = composed(hidden=[3])
            history = trained(path, epochs=last, vae=vae, optimizer=lambda p: make(p, **settings))
        return history.loss.tolist(), {n: t.tolist() for n, t in vae.tensors().items()}

    assert ended(tmp_path / "a", 1, 3) == ended(tmp_path / "b", 3)


class Own(torch.optim.Optimizer):
    """Keeps matrices of another shape than its parameters', and cannot be tried on shapes alone."""

    def __init__(self, parameters, lr=1e-2):
        super().__init__(parameters, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self):
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("square", torch.zeros_like(p))
                state["square"] += p.grad**2
                p -= group["lr"] * p.grad / (float(state["square"].max()) ** 0.5 + 1e-8)


def test_an_optimizer_of_ones_own_goes_on(tmp_path):
    trained(tmp_path / "a", epochs=1, optimizer=Own)
    assert len(trained(tmp_path / "a", epochs=3, optimizer=Own)) == 3


def test_a_callback_that_refuses_its_state_is_named(tmp_path):
    class Remembering(Callback):
        def state_dict(self):
            return {"losses": [0.5]}

        def load_state_dict(self, state):
            self.losses = state["loss"]

    trained(tmp_path / "a", callbacks=[Remembering()])
    error = refused(tmp_path / "a", callbacks=[Remembering()])
    assert error.field == "callbacks.0"
    assert "is refused by Remembering: KeyError: 'loss'" in str(error)


def test_long_lists_of_numbers_are_tensors_in_files():
    state = {
        "a": [0.1] * 500,
        "b": [1, 2**62] * 80,
        "c": [True] * 200,
        "d": [1, 2.0] * 100,
        "e": [2**70] * 200,
    }
    tensors, packed = pack(state)
    assert len(json.dumps(packed)) < 8000
    found = unpack(json.loads(json.dumps(packed)), tensors)
    assert found == state
    assert [type(v) for v in found["d"][:2]] == [int, float]
    assert type(found["c"][0]) is bool


def test_a_history_with_numbers_of_some_epochs_alone_comes_back(tmp_path):
    class Adding(Callback):
        def on_epoch(self, training, row):
            if training.epoch == 2:
                row["own"] = 3.5

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(tmp_path / "a", epochs=3, callbacks=[Adding()])
        history = trained(tmp_path / "a", epochs=4, callbacks=[Adding()])
    assert history.own.isna().tolist() == [True, False, True, True]
    assert history.epoch.tolist() == [1, 2, 3, 4]
