"""The report of a saved VAE, from the command line."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as pv
from pyrovae.__main__ import main
from pyrovae.plots.interactive import need


def build():
    """A pair of 16 pixels; what it is, but not its numbers, is told by its code."""
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 16)))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(16, (2, 2)))))


def no_vae():
    """Something else."""
    return 3


@pytest.fixture
def saved(tmp_path, monkeypatch):
    vae, x = build(), torch.bernoulli(torch.full((25, 16), 0.5))
    vae.rows(x)
    vae.save(tmp_path / "vae.safetensors")
    np.savez(tmp_path / "rows.npz", x=x.numpy(), digit=np.arange(25) % 3)
    frame = pd.DataFrame(x.numpy(), columns=[f"c{i}" for i in range(16)]).assign(kind="a")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ["--model", "tests.test_saved_report:build", "--no-calibration", "--num-samples", "20"]


def test_a_page_of_a_saved_vae(saved, capsys):
    chosen = ["--labels", "digit", "--image-shape", "4x4", "--title", "Mine"]
    assert main(["report", "vae.safetensors", "rows.npz", *MODEL, *chosen]) == 0
    text = (saved / "report.html").read_text()
    assert "<title>Mine</title>" in text
    assert capsys.readouterr().out == "Wrote report.html\n"


def test_a_sheet_of_a_table(saved):
    arguments = ["report", "vae.safetensors", "rows.csv", *MODEL, "--labels", "kind", "--out", "sheet.png"]
    assert main(arguments) == 0
    assert (saved / "sheet.png").read_bytes()[:4] == b"\x89PNG"


WRONG = {
    "no colon": (["--model", "tests"], "expected module:function"),
    "no module": (["--model", "no_such:build"], "No module named 'no_such'"),
    "no function": (["--model", "tests.test_saved_report:nothing"], "no attribute 'nothing'"),
    "no VAE": (["--model", "tests.test_saved_report:no_vae"], "gives a int: expected a VAE"),
    "no label": (["--labels", "name"], "rows.npz has no 'name': it has ['x', 'digit']"),
    "ending": (["--out", "report.pdf"], "expected one of .html, .png"),
    "context": (["--context", "digit"], "context"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(case, saved, capsys):
    extra, message = WRONG[case]
    before = sorted(file.name for file in saved.iterdir())
    assert main(["report", "vae.safetensors", "rows.npz", *MODEL, *extra]) == 1
    assert message in capsys.readouterr().err
    assert sorted(file.name for file in saved.iterdir()) == before


def test_without_bokeh_no_work_starts(saved, monkeypatch, capsys):
    monkeypatch.setattr(need, "find_spec", lambda name: None)
    assert main(["report", "nothing.safetensors", "rows.npz", *MODEL]) == 1
    assert "needs Bokeh" in capsys.readouterr().err


def test_pickles_are_refused(saved, capsys):
    np.savez(saved / "bad.npz", x=np.array([{}], dtype=object))
    assert main(["report", "vae.safetensors", "bad.npz", *MODEL]) == 1
    assert "holds no arrays of numbers" in capsys.readouterr().err
