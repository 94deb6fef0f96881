"""What the benchmarks stand on: where data come from, what is written, and the count behind a claim on speed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import data, report, speed
from pyrovae.models import FlowPrior, affine_flow, spline_flow
from pyrovae.nn import MLP


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
        flow.learned.append(network)
        return speed.calls_to_draw(flow)

    network = MLP(1, 1)
    assert calls(4) == 4
    network = MLP(1, 1)
    assert calls(9) == 9
