"""What the benchmarks stand on: where data come from, what is written, that rivals train the same model."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pv
from benchmarks import (
    annealed,
    auto_choice,
    by_hand,
    data,
    evidence,
    gpu,
    imputation,
    prior_swap,
    report,
    rivals,
    semi_supervised,
    speed,
    training,
    training_tasks,
)
from benchmarks.rivals import epochs
from pyrovae.models import FlowPrior, affine_flow, spline_flow
from pyrovae.nn import MLP
from pyrovae.traced import traced

CPU = torch.device("cpu")


def test_data_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    with pytest.raises(SystemExit, match=r"PYROVAE_DATA is not set: .* holds jsb_chorales.npz"):
        data.jsb_chorales("train")
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"holds no binarized_mnist.npz"):
        data.static_mnist()


def test_chorales_are_padded_behind_their_lengths(monkeypatch, tmp_path):
    frames = np.random.default_rng(0).integers(0, 2, (5, 88)).astype(np.uint8)
    np.savez(tmp_path / "jsb_chorales.npz", test_bits=np.packbits(frames, axis=1), test_lengths=[2, 3])
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    x, lengths = data.jsb_chorales("test")
    assert lengths.tolist() == [2, 3]
    np.testing.assert_array_equal(x[0, :2], frames[:2])
    np.testing.assert_array_equal(x[1], frames[2:])
    assert not bool(x[0, 2].any())


def test_text_is_cut_into_rows(monkeypatch, tmp_path):
    text = np.frombuffer(b"abcabcab", dtype=np.uint8)
    np.savez(tmp_path / "tiny_shakespeare.npz", train=text, test=text[2:7])
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    train, test, symbols = data.shakespeare(3)
    assert train.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert test.tolist() == [[2, 0, 1]]
    assert symbols == 3


def test_imputation_trains_without_what_was_taken_away(monkeypatch):
    full, holes = imputation.table()
    absent = holes.isnan()
    assert int(absent.sum()) == full.numel() // 2
    assert torch.equal(full[~absent], holes[~absent])
    assert imputation.error(full) == 0.0
    assert imputation.error(torch.zeros_like(full)) == pytest.approx(1.0, abs=0.1)
    monkeypatch.setattr(imputation, "EPOCHS", (1,))
    monkeypatch.setattr(imputation, "PUBLISHED", {1: 0.0})
    monkeypatch.setattr(imputation, "DRAWS", 20)
    (line,) = imputation.train(0, 1)
    assert 0.5 < line["error"] < 2.0


def test_a_table_is_written_with_its_settings(tmp_path, capsys):
    table = pd.DataFrame(
        [{"model": "a", "nats": -1.23456, "rows": 3}, {"model": "b", "nats": None, "rows": 4}]
    )
    report.write("name", "A title", table, {"batch": 7}, "What was found.", folder=tmp_path)
    text = (tmp_path / "name.md").read_text()
    assert "| a | -1.235 | 3 |\n| b |  | 4 |" in text
    assert "- batch: 7" in text
    assert capsys.readouterr().out == text + "\n"
    kept = pd.read_csv(tmp_path / "name.csv")
    assert kept.batch.tolist() == [7, 7]
    assert kept.nats[0] == -1.23456


@pytest.mark.parametrize("make", [affine_flow, spline_flow])
def test_flow_priors_draw_in_as_many_calls_whatever_their_size(make):
    assert {speed.calls_to_draw(make(size)) for size in (4, 16, 64)} == {12}  # 4 couplings of 3 layers


def test_that_count_would_see_a_loop():
    class Looping(torch.distributions.Transform):
        domain = codomain = torch.distributions.constraints.real_vector
        bijective = True

        def _call(self, x):
            return torch.stack([network(value.unsqueeze(-1)).squeeze(-1) for value in x.unbind(-1)], -1)

    def calls(size):
        flow = FlowPrior(size, [Looping()])
        flow.layers.append(network)
        return speed.calls_to_draw(flow)

    network = MLP(1, 1)
    assert calls(4) == 4
    network = MLP(1, 1)
    assert calls(9) == 9


def tiny_task(by_hand_too=by_hand.perceptrons, name="tiny"):
    def declare():
        model = pv.models.LatentVariableModel(
            pv.models.StandardNormal(2), pv.models.Bernoulli(MLP(2, 6, [5]))
        )
        return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(MLP(6, (2, 2), [5]))))

    return training_tasks.Task(
        name,
        batch=20,
        steps=2,
        declare=declare,
        by_hand=lambda: by_hand_too(6, 5, 2),
        data=lambda rows: (torch.bernoulli(torch.full((rows, 6), 0.5)),),
    )


@pytest.mark.parametrize(
    "task", [*training_tasks.TASKS, semi_supervised.TASK], ids=lambda task: f"{task.name}, {task.batch}"
)
def test_what_is_compared_is_the_same_model(task, monkeypatch):
    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    training_tasks.check_same(task, CPU, samples=20)


class OtherNoise(by_hand.OneLatent):
    def forward(self, x):
        location, scale = self.encoder(x)
        logits = self.decoder(by_hand.drawn(location, scale.square()))
        return by_hand.log_bernoulli(logits, x), by_hand.rate_to_standard(location, scale)


class ConstantForgotten(by_hand.OneLatent):
    def forward(self, x):
        log_likelihood, rate = super().forward(x)
        return log_likelihood, rate + 0.5


@pytest.mark.parametrize(
    "wrong, figure",
    [(OtherNoise, r"differs by \d.\de-0[1-4]"), (ConstantForgotten, r".*the rate by 0.[45]\d* nats")],
)
def test_another_model_by_hand_is_refused(wrong, figure):
    def make(size, hidden, latent):
        right = by_hand.perceptrons(size, hidden, latent)
        return wrong(right.decoder, right.encoder)

    with pytest.raises(RuntimeError, match=r"tiny by hand is another model: log p\(x\|z\) " + figure):
        training_tasks.check_same(tiny_task(make), CPU)


@pytest.mark.parametrize("name", [name for name in rivals.RIVALS if name != "compiled"])
def test_each_rival_trains(name, monkeypatch):
    trained = []
    pair, hand = training_tasks.Task.pair, training_tasks.Task.hand
    for method, make in (("pair", pair), ("hand", hand)):
        monkeypatch.setattr(
            training_tasks.Task,
            method,
            lambda task, rows, device, make=make: trained.append(make(task, rows, device)) or trained[-1],
        )
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # which takes long
    task = tiny_task()
    rows = task.rows(CPU)
    if name in ("by hand, CUDA graph", "Pyro in Lightning", "NumPyro") or name.startswith(
        "pythae"
    ):  # which may be absent
        with contextlib.suppress(epochs.AbsentError):
            assert rivals.RIVALS[name](task, rows, CPU)() > 0
        return
    epoch = rivals.RIVALS[name](task, rows, CPU)
    before = [p.detach().clone() for p in trained[-1].parameters()]
    assert epoch() > 0
    after = list(trained[-1].parameters())
    # Adam moves a parameter by at most about its rate a step, and at first by about that.
    moved = torch.stack([(a.detach() - b).abs().max() for a, b in zip(after, before, strict=True)])
    assert float(moved.max()) == pytest.approx(task.steps * epochs.RATE, rel=0.5)


def test_ratios_are_medians_by_pair():
    seconds = {"compiled": iter([9, 9, 1.0, 8.0, 3.0]), "by hand": iter([9, 9, 2.0, 2.0, 3.0])}

    def clock(name):
        return lambda task, rows, device: lambda: next(seconds[name])

    def not_here(task, rows, device):
        raise epochs.AbsentError("it is elsewhere")

    def broken(task, rows, device):
        raise OSError("no such thing\nat all")

    made = {name: clock(name) for name in seconds} | {"pythae": not_here, "traced": broken}
    measured = training.measure(tiny_task(), CPU, rounds=3, rivals=made)
    (line,) = measured.ratios(CPU)
    assert line["ratio"] == "compiled / by hand"
    assert (line["median"], line["target"], line["met"]) == (1.0, 0.85, "no")
    assert line["quartiles"] == "0.750 to 2.500"
    assert measured.milliseconds()["compiled"] == pytest.approx(1500.0)
    page = training.findings([measured])
    assert "- pythae: it is elsewhere: tiny (20)\n- traced: failed, OSError: no such thing: tiny (20)" in page


def test_a_choice_is_compared_with_the_better_of_two(monkeypatch, tmp_path):
    seen = []

    def whole_fit(task, steps, compile):
        seen.append((compile, traced.pays_off is not pays, os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"])))
        clock = {"auto": 6.0 if len(seen) == 1 else 8.0, True: 5.0}[compile]
        return {"clock": clock, "engine": "traced (not compiled)", "loss": 2.0}

    pays = traced.pays_off
    monkeypatch.setattr(auto_choice, "whole_fit", whole_fit)
    line = auto_choice.compared("images", 10, str(tmp_path))
    assert (line["auto / the better"], line["at most 1.1"], line["auto ran"]) == (1.2, "no", "traced")
    assert line["compiled before"] == "nothing"
    (tmp_path / "graph").touch()
    assert auto_choice.compared("images", 10, str(tmp_path))["compiled before"] == "this graph"
    assert [what for what, _, _ in seen] == ["auto", "auto", True] * 2
    assert [patched for _, patched, _ in seen] == [False, True, False] * 2
    assert [held for _, _, held in seen] == [[]] * 3 + [["graph"]] * 3


def test_gains_of_priors_are_paired_by_row():
    rows = torch.linspace(-100, -80, 50, dtype=torch.float64)
    over = annealed.Beside(SimpleNamespace(log_marginal=rows), torch.linspace(0, 1, 9))
    same = annealed.Beside(SimpleNamespace(log_marginal=rows + 2.0), torch.linspace(0, 1, 9) + 1.0)
    assert prior_swap.gain(same, over) == pytest.approx((3.0, 0.0), abs=1e-6)
    noisy = annealed.Beside(SimpleNamespace(log_marginal=rows + torch.tensor([0.0, 1.0] * 25)), over.more)
    found, error = prior_swap.gain(noisy, over)
    assert (found, error) == pytest.approx((0.5, (0.25 * 50 / 49 / 50) ** 0.5))


def test_epochs_are_longer_on_a_gpu(monkeypatch):
    steps = []

    def prepare(task, rows, device):
        steps.append(task.steps)
        return lambda: float(task.steps)

    monkeypatch.setattr(training_tasks.Task, "rows", lambda task, device: task.data(1))
    monkeypatch.setattr(training, "check_same", lambda task, device: None)
    for device in (CPU, torch.device("cuda")):
        measured = training.measure(tiny_task(), device, rounds=1, rivals={"compiled": prepare})
        assert measured.seconds.compiled.tolist() == [1.0]  # a step
    assert steps == [2, 100]


def test_the_page_of_training(monkeypatch, capsys):
    few = {name: rivals.RIVALS[name] for name in ("traced", "by hand", "pyro.infer.SVI")}
    monkeypatch.setattr(training, "TASKS", [tiny_task()])
    monkeypatch.setattr(training, "RIVALS", few)
    threads = torch.get_num_threads()
    training.main(["--rounds", "1", "--threads", str(threads)])
    page = capsys.readouterr().out
    assert "| tiny | 20 | traced / pyro.infer.SVI |" in page
    assert f"- torch: {torch.__version__}" in page


def test_a_part_that_fails_on_a_gpu_is_reported_and_the_rest_goes_on(monkeypatch, tmp_path):
    commands = {"Broken": (["benchmarks.no_such_module"], 0), "Whole": (["platform"], 0)}
    monkeypatch.setattr(gpu, "parts", lambda device: commands)
    gpu.main(["--device", "cpu", "--results", str(tmp_path)])
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# cpu, ")
    assert "## Broken\n\nFailed with exit code 1." in page
    assert "No module named benchmarks.no_such_module" in page
    assert platform.system() in page.split("## Whole")[1]


def test_parts_that_take_too_long_are_ended():
    assert "timed out" in gpu.run_part(["timeit", "-n", "1", "import time; time.sleep(60)"], 0, "cpu", 0.5)


def test_no_gpu_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main(["--device", "cuda", "--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_weights_a_second(monkeypatch):
    for name, size in (("NUM_ROWS", 4), ("NUM_SAMPLES", 5), ("PYTHAE_ROWS", 2), ("REPEATS", 1)):
        monkeypatch.setattr(evidence, name, size)
    table, _, estimates = evidence.measure(*evidence.untrained())
    assert (table["weights a second"] > 0).all()
    assert table["of the products"][0] == 1.0
    assert estimates.num_samples == 5


def test_the_trained_model_is_trained(monkeypatch):
    x = torch.bernoulli(torch.full((40, 784), 0.2), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(data, "static_mnist", lambda: (x, x[:5], x[5:9]))
    vae, test = evidence.trained(CPU, epochs=5)
    assert torch.equal(test, x[5:9])
    start, _ = evidence.untrained()
    assert pv.elbo(vae, test, seed=0).elbo.mean() > pv.elbo(start, test, seed=0).elbo.mean() + 10


def test_the_ratios_in_docs_are_those_of_the_results(tmp_path):
    root = Path(__file__).parent.parent
    results = pd.read_csv(root / "benchmarks/results/training.csv")
    for page in ("docs/training.md", "README.md"):
        text = (root / page).read_text()
        assert training.short(results) in text
        copy = tmp_path / Path(page).name
        copy.write_text(text)
        training.show_in_docs(results.assign(median=0.125), [copy])
        assert "| 0.12 |" in copy.read_text()
        training.show_in_docs(results, [copy])
        assert copy.read_text() == text
