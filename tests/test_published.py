"""The published figures: the page is what the runs left, verdicts go by the paper's error, trainings go on."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pyrovae as pv
from benchmarks import annealed, data
from benchmarks.published import __main__ as published
from benchmarks.published import (
    binary_sets,
    bits_back,
    chorales,
    figure,
    iwae,
    m2,
    page,
    prodlda,
    training,
    vampprior,
)

NAN = math.nan


def of(ours, published, error=NAN, *, higher=False):
    return figure.Figure("f", ours, NAN, "", published, error, "s", "1 of 1 epochs", 1.0, higher)


@pytest.mark.parametrize(
    "found, verdict",
    [
        (of(100.9, 100.0), "yes"),
        (of(101.1, 100.0), "no"),
        (of(98.0, 100.0), "better"),
        (of(-98.0, -100.0, higher=True), "better"),
        (of(-102.0, -100.0, higher=True), "no"),
        (of(13.6, 11.97, 1.71), "yes"),
        (of(13.7, 11.97, 1.71), "no"),
        (of(1.0, NAN), ""),
    ],
)
def test_a_figure_agrees_within_the_papers_error_or_a_hundredth(found, verdict):
    assert found.agrees == verdict


def test_the_page_is_what_the_runs_left():
    assert page.PAGE.read_text() == page.text()


def test_the_page_shows_figures_with_their_errors(tmp_path, capsys):
    curve = pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0]})
    figures = [figure.Figure("NLL", 6.9, 0.05, "se", 6.87, NAN, "somewhere", "2 of 9 epochs", 90.0)]
    figure.write("miwae", "Title", figures, {"data": "rows"}, "What was found.", curve, tmp_path)
    text = page.text(tmp_path)
    assert "| Title | NLL | 6.870 | 6.900 ± 0.050 | se | yes | 2 of 9 epochs | 1.5 | somewhere |" in text
    assert "## Title\n\nWhat was found.\n\n- data: rows\n- hardware: " in text
    assert pd.read_csv(tmp_path / "miwae_curve.csv").epoch.tolist() == [1, 2]


def test_entries_are_modules_and_unknown_ones_are_named(monkeypatch):
    with pytest.raises(SystemExit, match="mowae: no such entry. There are prodlda, "):
        published.main(["mowae"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here: IWAE's 3280 epochs were left out"):
        iwae.main(training.Run())


def tiny():
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(nn.Linear(2, 6)))
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))))


def test_a_training_that_is_stopped_goes_on_to_the_same_weights(tmp_path):
    x = torch.bernoulli(torch.full((20, 6), 0.5), generator=torch.Generator().manual_seed(0))

    class Stop(pv.callbacks.Callback):
        def on_epoch(self, training, row):
            if training.epoch == 2:
                training_alarm()

    def training_alarm():
        import signal

        signal.raise_signal(signal.SIGALRM)  # as the clock does after so many minutes

    how = {"epochs": 4, "batch_size": 10, "seed": 0}
    whole = tiny()
    training.Run(tmp_path / "whole").fit("a", whole, x, **how, callbacks=[pv.callbacks.Callback()])
    with pytest.warns(UserWarning, match="after epoch 2 of 4"):
        first = training.Run(tmp_path / "parts", minutes=5.0).fit("a", tiny(), x, **how, callbacks=[Stop()])
    assert len(first) == 2
    assert pd.read_csv(tmp_path / "parts" / "a_curve.csv").epoch.tolist() == [1, 2]
    again = tiny()
    second = training.Run(tmp_path / "parts").fit("a", again, x, **how, callbacks=[Stop()])
    assert training.done(second, 4) == "4 of 4 epochs"
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_a_curve_is_thinned_to_its_last_epoch():
    curve = pd.DataFrame({"epoch": range(1, 501)})
    thinned = training.thinned(curve, most=20).epoch.tolist()
    assert len(thinned) == 20
    assert (thinned[0], thinned[-1]) == (1, 500)


def test_trees_of_columns_are_exact_where_the_columns_are_a_tree():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(40000, generator=generator) < 0.3
    b = a ^ (torch.rand(40000, generator=generator) < 0.1)
    c = b ^ (torch.rand(40000, generator=generator) < 0.2)
    rows = torch.stack([a, c, b], 1).float()
    every = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).float()
    i, k, j = every.unbind(1)
    p = (0.3 * i + 0.7 * (1 - i)) * (0.9 - 0.8 * (i - j).abs()) * (0.8 - 0.6 * (j - k).abs())
    found = binary_sets.tree(rows, every)
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(found, p.double().log(), atol=0.05, rtol=0)
    alone = binary_sets.independent(rows, every)
    assert float(alone.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float((alone - p.double().log()).abs().max()) > 0.5


def test_nearly_exact_figures_are_so_where_the_truth_is_known():
    decoder = nn.Linear(4, 1)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[2.0, 0.0, 0.0, 0.0]]))
        decoder.bias.zero_()
    z = np.polynomial.hermite_e.hermegauss(200)
    truth = float((z[1] / (1 + np.exp(-2 * z[0]))).sum() / z[1].sum())
    found, error = binary_sets.nearly_exact(decoder, torch.tensor([[1.0], [0.0]]), scrambles=4)
    assert float(found[0]) == pytest.approx(math.log(truth), abs=1e-4)
    assert float(error.max()) < 1e-4


def test_perplexity_is_that_of_a_uniform_word():
    x = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]])
    log_density = pv.models.distributions.Multinomial(torch.zeros(2, 4), x.sum(-1)).log_prob(x)
    assert prodlda.perplexity(log_density, x) == pytest.approx(4.0, rel=1e-5)


def test_what_bits_back_prints_is_no_expectation():
    vae = bits_back.pair()
    x = torch.bernoulli(torch.full((4, 784), 0.2), generator=torch.Generator().manual_seed(0))
    vae.rows(x)
    q = vae.guide.posterior(x)
    z, scale = q.base_dist.loc, q.base_dist.scale
    expected = vae.model.likelihood(z).log_prob(x) + (-0.5 * z**2 + scale.log()).sum(-1)
    torch.testing.assert_close(bits_back.at_the_mean(vae, x), expected.detach())
    assert bits_back.bits(torch.full((3,), -784 * math.log(2))) == pytest.approx(1.0)


def test_the_schedules_are_those_of_the_papers():
    rates = [round(iwae.rate_of(epoch) * 1e4, 1) for epoch in (0, 1, 4, 13, 40, 121, 364, 1093, 3279)]
    assert rates == [10.0, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1.0, 1.0]
    assert iwae.EPOCHS == 3280
    assert [vampprior.weight_of_rate(0, e) for e in (0.0, 0.99, 1.0, 99.0, 500.0)] == [
        0.01,
        0.01,
        0.02,
        1.0,
        1.0,
    ]
    assert m2.WEIGHT == 50.0


def rows_of(name):
    """A few random rows of each entry's kind."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.bernoulli(torch.full((8, 784), 0.2), generator=generator)
    if name == "prodlda":
        return (torch.poisson(torch.full((8, prodlda.WORDS), 0.05), generator=generator),)
    if name == "m2":
        return bits, torch.tensor([0.0, 1.0, *[NAN] * 6])
    if name == "chorales":
        x = torch.bernoulli(torch.full((4, 6, chorales.NOTES), 0.1), generator=generator)
        return x, torch.tensor([6, 2, 4, 1])
    return (bits,)


PAIRS = {
    "prodlda": lambda: pv.VAE(prodlda.Words(), prodlda.Encoder()),
    "bits_back": bits_back.pair,
    "m2": lambda: pv.VAE(m2.Digits(), m2.Classifier()),
    "chorales": chorales.pair,
    "vampprior, standard": lambda: vampprior.pair("standard"),
    "vampprior": lambda: vampprior.pair("vampprior"),
    "iwae": lambda: iwae.pair(rows_of("iwae")[0]),
    "binary_sets": lambda: binary_sets.pair(784),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_declared_pairs_train(name):
    vae = PAIRS[name]()
    history = pv.fit(vae, rows_of(name), epochs=2, batch_size=4, seed=0, compile=False, progress=False)
    assert history["loss"].notna().all()


def test_gradients_are_divided_by_their_norms():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = vampprior.AdamNormGrad([weight], lr=0.1)
    weight.grad = torch.tensor([3.0, 0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.0, 0.8]))
    assert float(weight.detach()[0]) == pytest.approx(-0.1, rel=1e-4)


def test_digits_keep_ten_labels_of_each_class(monkeypatch):
    generator = np.random.default_rng(0)
    labels = (np.arange(m2.ROWS + 20) % 10).astype(np.uint8)
    arrays = {
        "x_train": generator.integers(0, 256, (len(labels), 1, 2), dtype=np.uint8),
        "y_train": labels,
    }
    monkeypatch.setattr(data, "archive", lambda name: arrays)
    x, y = m2.digits(0)
    known = ~y.isnan()
    assert torch.bincount(y[known].long()).tolist() == [10] * 10
    assert torch.equal(y[known].long(), known.nonzero()[:, 0] % 10)
    assert x.shape == (m2.ROWS, 2)
    assert len(m2.held_out("valid")[0]) == 20


def test_annealing_beside_importance_sampling_comes_nearer_to_the_truth(monkeypatch):
    """Of a guide that is too narrow: its draws miss most of p(x)."""
    for name, size in (("TEMPERATURES", 15), ("LEAPFROGS", 3), ("CHAINS", 8)):
        monkeypatch.setattr(annealed, name, size)
    torch.manual_seed(0)
    decoder = nn.Linear(4, 12)
    nn.init.normal_(decoder.weight, 0.0, 2.0)
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(4), pv.models.Bernoulli(decoder))
    guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(nn.Linear(12, 4), scale=0.3))
    vae = pv.VAE(model, guide, example=torch.zeros(3, 12))
    x = vae.generate(16, seed=0)
    exact = float(binary_sets.nearly_exact(decoder, x)[0].mean())
    sampled = pv.log_marginal(vae, x, num_samples=100, seed=0)
    found = annealed.beside(vae, x, sampled, rows=16)
    assert not found.stands
    short = exact - float(sampled.log_marginal.mean())
    assert short > 0.5
    assert abs(found.log_marginal - exact) < 0.5 * short
    assert float(found.more.mean()) == pytest.approx(short, abs=0.5 * short)


def test_on_real_tables_log_marginal_met_the_truth():
    """The kept run: what it is off by, less what it says that it errs low, is within the errors of both."""
    table = pd.read_csv(figure.RESULTS / "binary_sets_oracle.csv")
    error = np.hypot(table["its Monte Carlo error"], table["its error"])
    off = table["it is off by"] + table["it says it errs low by at least"]
    assert (off.abs() < 4 * error).all()
    assert (table["rows within 95% intervals"] > 0.85).all()


def test_known_labels_train_the_classifier_by_their_cross_entropy(monkeypatch):
    """What the weight adds to the gradient is that of cross entropy by hand, and nothing of a score function."""
    x = torch.bernoulli(torch.full((6, 784), 0.2), generator=torch.Generator().manual_seed(0))
    y = torch.tensor([3.0, 1.0, NAN, NAN, NAN, NAN])

    def moved(weight):
        monkeypatch.setattr(m2, "WEIGHT", weight)
        torch.manual_seed(0)
        vae = pv.VAE(m2.Digits(), m2.Classifier())
        before = [p.detach().clone() for p in vae.guide.classifier.parameters()]
        pv.fit(vae, (x, y), epochs=1, seed=0, compile=False, progress=False, optimizer=slow)
        return [b - p.detach() for b, p in zip(before, vae.guide.classifier.parameters(), strict=True)]

    def slow(parameters):
        return torch.optim.SGD(parameters, lr=1e-2)

    with_labels, without = moved(5.0), moved(0.0)
    torch.manual_seed(0)
    vae = pv.VAE(m2.Digits(), m2.Classifier())
    logits = vae.guide.classifier(x[:2])
    loss = 5.0 * nn.functional.cross_entropy(logits, y[:2].long(), reduction="sum") / len(x)
    gradients = torch.autograd.grad(loss, list(vae.guide.classifier.parameters()))
    for one, other, gradient in zip(with_labels, without, gradients, strict=True):
        torch.testing.assert_close(one - other, 1e-2 * gradient, rtol=1e-2, atol=1e-6)
