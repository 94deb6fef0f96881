"""A real table with a fifth of its entries absent, imputed, against its columns' means and modes."""

from __future__ import annotations

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import models
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.nn import MLP, MissingAsZero, PositiveParameter

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

    def __init__(self, x: Tensor, latent_size: int) -> None:
        super().__init__()
        self.center = x.nanmean(0)
        self.scale = (x - self.center).square().nanmean(0).sqrt()
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
    kept = x.where(observed, torch.nan)
    encoder = DiagonalNormal(MissingAsZero(Scaled(kept, K)))
    vae = pv.VAE(models.MixedTableModel(models.StandardNormal(K), parts), AmortizedGuide(encoder))
    pv.fit(
        vae,
        kept,
        epochs=150,
        batch_size=60,
        seed=0,
        progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    )
    imputed = pv.impute(vae, kept, num_samples=200, seed=0)
    filled = vae.model.table(imputed.mean)
    assert torch.equal(filled[observed], x[observed])
    assert torch.equal(vae.model.table(imputed.absent), ~observed)
    low, high = (vae.model.table(end) for end in imputed.interval(0.9))
    held = ((low <= x) & (x <= high))[:, NUMBERS][~observed[:, NUMBERS]].float().mean()
    assert abs(float(held) - 0.9) < 0.05

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
