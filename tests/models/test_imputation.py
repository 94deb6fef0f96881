"""Missing entries filled in: the formula, and a real table against its columns' means and modes."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import models
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.nn import MLP, PositiveParameter
from tests.components import MIXED_COLUMNS, MODELS, mixed_rows


def test_missing_entries_are_the_mixtures_mean_or_mode():
    torch.manual_seed(0)
    x, observed = mixed_rows(6)
    model, _ = MODELS["MixedTableModel"].make()
    z = torch.randn(4, 6, 2)
    filled = model.impute(z, torch.where(observed, x, torch.nan), observed)
    numbers, labels, counted = (likelihood(z).base_dist for likelihood in model.likelihoods)
    exact = torch.empty(6, 5)
    exact[:, MIXED_COLUMNS[0]] = numbers.loc.mean(0)
    exact[:, MIXED_COLUMNS[1]] = labels.logits.softmax(-1).mean(0).argmax(-1).float()
    exact[:, MIXED_COLUMNS[2]] = counted.mean.mean(0)
    torch.testing.assert_close(filled, torch.where(observed, x, exact.detach()))


def test_the_most_probable_label_is_that_of_the_mean_of_probabilities():
    """Two draws vote weakly for 0, one strongly for 1: neither a vote nor a mean of logits or labels gives 1."""
    logits = torch.tensor([[[[0.55, 0.45, 0.0]]], [[[0.55, 0.45, 0.0]]], [[[0.2, 0.3, 0.5]]]]).log()
    at_draws = logits.clamp(min=-20.0)

    class Fixed(nn.Module):
        def forward(self, z: Tensor) -> dist.TorchDistribution:
            return dist.Categorical(logits=at_draws.expand(-1, 1, 2, -1)).to_event(1)

    model = models.MixedTableModel(models.StandardNormal(2), [([0, 1], Fixed())])
    observed = torch.tensor([[False, True]])
    filled = model.impute(torch.zeros(3, 1, 2), torch.tensor([[0.0, 2.0]]), observed)
    assert filled.tolist() == [[0.0, 2.0]]
    at_draws = (
        torch.tensor([[[[0.51, 0.49, 0.0]]], [[[0.51, 0.49, 0.0]]], [[[0.0, 0.6, 0.4]]]]).clamp(1e-9).log()
    )
    assert model.impute(torch.zeros(3, 1, 2), torch.zeros(1, 2), observed).tolist() == [[1.0, 0.0]]


def test_draws_for_other_rows_are_named():
    x, observed = mixed_rows(6)
    model, _ = MODELS["MixedTableModel"].make()
    for z in (torch.zeros(3, 5, 2), torch.zeros(6, 2)):
        with pytest.raises(ValueError, match=r"z has shape .* expected draws for the same rows, \[S, 6, K\]"):
            model.impute(z, x, observed)


# A real table: 11 chemical measurements, magnesium and proline in whole units, and the cultivar.

NUMBERS, COUNTS, LABEL = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], [4, 12], [13]


def wine() -> tuple[Tensor, Tensor]:
    """The 178 rows, numbers in units of their standard deviation, and which entries are observed: 80% of them."""
    data = load_wine()
    x = torch.cat([torch.tensor(data.data), torch.tensor(data.target).unsqueeze(1)], 1).float()
    x[:, NUMBERS] = (x[:, NUMBERS] - x[:, NUMBERS].mean(0)) / x[:, NUMBERS].std(0)
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    assert bool(observed.any(1).all())
    return x, observed


class Scaled(nn.Module):
    """A perceptron of columns brought to one scale, and of the mask; the label as it is."""

    def __init__(self, x: Tensor, observed: Tensor, latent_size: int) -> None:
        super().__init__()
        kept = torch.where(observed, x, torch.nan)
        self.center = kept.nanmean(0)
        self.scale = (kept - self.center).square().nanmean(0).sqrt()
        self.network = MLP(2 * x.shape[1] + 3, (latent_size, latent_size), [64])

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        label = nn.functional.one_hot(x[..., LABEL[0]].long(), 3) * seen[..., LABEL]
        return self.network((x - self.center) / self.scale * seen, seen, label)


class InUnitsOf(nn.Module):
    """Raw means on a logarithmic scale around each column's own: outputs around 0 suit columns around 100 and 750."""

    def __init__(self, unit: Tensor) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp() * self.unit


def test_imputation_beats_means_and_modes():
    K = 4
    x, observed = wine()
    torch.manual_seed(0)
    dispersion = PositiveParameter(torch.tensor([0.1, 0.1]))
    usual = torch.where(observed, x, torch.nan)[:, COUNTS].nanmean(0)
    counts = models.NegativeBinomial(nn.Sequential(MLP(K, 2), InUnitsOf(usual)), dispersion)
    parts = [
        (NUMBERS, models.Normal(MLP(K, 11), scale=PositiveParameter(torch.ones(11)))),
        (COUNTS, counts),
        (LABEL, models.Categorical(MLP(K, 3), num_options=3)),
    ]
    encoder = DiagonalNormal(models.MissingAsZero(Scaled(x, observed, K)))
    vae = pv.VAE(models.MixedTableModel(models.StandardNormal(K), parts), AmortizedGuide(encoder))
    hidden = torch.where(observed, x, 0.0)
    pv.fit(
        vae,
        (hidden, observed),
        epochs=150,
        batch_size=60,
        seed=0,
        progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    )
    torch.manual_seed(0)
    z = vae.sample_posterior(hidden, observed, num_samples=200)["z"]
    filled = vae.model.impute(z, hidden, observed)
    assert torch.equal(filled[observed], x[observed])

    kept = torch.where(observed, x, torch.nan)
    baseline = kept.nanmean(0).expand_as(x).clone()
    baseline[:, LABEL] = x[observed[:, 13], 13].mode().values
    missing = ~observed

    def rmse(guess: Tensor, columns: list[int]) -> float:
        error = ((guess - x) / kept.sub(kept.nanmean(0)).square().nanmean(0).sqrt())[:, columns]
        return float(error[missing[:, columns]].square().mean().sqrt())

    def accuracy(guess: Tensor) -> float:
        return float((guess == x)[:, LABEL][missing[:, LABEL]].float().mean())

    print(f"\n{'missing entries of':28} imputed  column's mean or mode")
    figures = {}
    for name, columns in (("11 numbers, RMSE in std.", NUMBERS), ("2 counts, RMSE in std.", COUNTS)):
        figures[name] = rmse(filled, columns), rmse(baseline, columns)
        print(f"{name:28} {figures[name][0]:.3f}    {figures[name][1]:.3f}")
    labels = accuracy(filled), accuracy(baseline)
    print(
        f"{'the cultivar, accuracy':28} {labels[0]:.3f}    {labels[1]:.3f}  ({int(missing[:, 13].sum())} rows)"
    )
    for ours, means in figures.values():
        assert ours < 0.85 * means
    assert labels[0] > labels[1] + 0.3
