"""Every public prior, likelihood, model, posterior and guide, small: the tables over which properties are tested.

A new component is one entry, named as it is in `pyrovae.models` or `pyrovae.guides`, with a word more after a comma
where it has several. `tests/test_components.py` fails for a public name without an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions.transforms as transforms
import torch
from torch import Tensor, nn

from pyrovae import guides, models
from pyrovae.guides import AmortizedGuide, DiagonalNormal, EmptyGuide, HierarchicalGuide, MarkovPosterior
from pyrovae.guides.families import headed
from pyrovae.nn import (
    GRU,
    MLP,
    AutoregressiveGRU,
    GatedTransition,
    MissingAsZero,
    PositiveParameter,
    SequenceEncoder,
    Units,
)

K = 2  # latent dimensions
D = 3  # entries of a row
H = 6  # context of a flow's layers
OPTIONS = 4  # of a categorical entry


@dataclass(frozen=True)
class Prior:
    """`make(context_size)`: a prior over K dimensions of a context [B, context_size]."""

    make: Callable[[int], nn.Module]
    conditional: bool = False


@dataclass(frozen=True)
class Likelihood:
    """`make(in_features)`: a likelihood of D entries; `data(B)` draws rows of its support.

    `context` makes from rows what the likelihood takes as its last input beside z.
    """

    make: Callable[[int], nn.Module]
    data: Callable[[int], Tensor]
    context: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: ()
    bad: Callable[[], list[float]] = list
    values: Tensor | None = None  # all values of one entry, or all that have mass worth the name
    has_mean: bool = True


@dataclass(frozen=True)
class Model:
    """`make()`: model and guide of the same latents; `data(B)` draws (x, *context)."""

    make: Callable[[], tuple[nn.Module, nn.Module]]
    data: Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Posterior:
    """`make(network, K)`: a posterior over K dimensions; `network(sizes)` is an encoder with outputs of these sizes.

    `scales` finds the scales in its distribution; a flow runs `layer_networks` for one draw.
    """

    make: Callable[[Callable[[tuple[int, ...]], nn.Module], int], nn.Module]
    scales: Callable[[Any], Tensor] = lambda q: q.base_dist.scale
    layer_networks: int = 0
    tolerance: float = 1e-9  # of a density by one pass, against another


@dataclass(frozen=True)
class Guide:
    """`make(model)`: a guide of an entry of MODELS."""

    model: str
    make: Callable[[Any], nn.Module]


def net(in_features: int, out_features: int | tuple[int, ...]) -> MLP:
    return MLP(in_features, out_features, hidden=[5], activation=nn.Tanh)


def per_feature(value: float) -> PositiveParameter:
    return PositiveParameter(torch.full((D,), value))


def units(centre: float = 20.0, size: float = 3.0) -> Units:
    return Units(torch.full((D,), centre), torch.full((D,), size), torch.full((D,), 0.01))


def real(rows: int) -> Tensor:
    return torch.randn(rows, D)


def counts(rows: int) -> Tensor:
    return torch.poisson(torch.full((rows, D), 2.0))


def library(x: Tensor) -> tuple[Tensor, ...]:
    return (1.0 + x.sum(1, keepdim=True),)


def total(x: Tensor) -> tuple[Tensor, ...]:
    return (x.sum(1, keepdim=True),)


def fixed_total(rows: int) -> Tensor:
    return torch.distributions.Multinomial(5, torch.ones(D)).sample((rows,))


MANY = torch.arange(4000.0)

PRIORS = {
    "StandardNormal": Prior(lambda c: models.StandardNormal(K)),
    "LearnedNormal": Prior(lambda c: models.LearnedNormal(K)),
    "NormalMixture": Prior(lambda c: models.NormalMixture(K, num_components=3)),
    "VampPrior, equal weights": Prior(
        lambda c: models.VampPrior(models.Normal(net(D, (K, K))), torch.rand(4, D))
    ),
    "VampPrior, learned weights": Prior(
        lambda c: models.VampPrior(
            models.Normal(net(D, (K, K))), torch.randn(4, D), low=-9.0, high=9.0, learned_weights=True
        )
    ),
    "spline_flow": Prior(lambda c: models.spline_flow(K, num_layers=2, hidden=[8])),
    "affine_flow": Prior(lambda c: models.affine_flow(K, num_layers=3, hidden=[8])),
    "FlowPrior, autoregressive": Prior(
        lambda c: models.FlowPrior(K, [transforms.affine_autoregressive(K, hidden_dims=[8])])
    ),
    "Normal, p(z|c)": Prior(lambda c: models.Normal(net(c, (K, K))), conditional=True),
}

_WHOLE: Callable[[], list[float]] = lambda: [-1.0, 0.5]  # noqa: E731

LIKELIHOODS = {
    "Bernoulli": Likelihood(
        lambda k: models.Bernoulli(net(k, D)),
        lambda B: torch.bernoulli(torch.full((B, D), 0.5)),
        bad=lambda: [0.5, 2.0],
        values=torch.arange(2.0),
    ),
    "ContinuousBernoulli": Likelihood(
        lambda k: models.ContinuousBernoulli(net(k, D)), lambda B: torch.rand(B, D), bad=lambda: [-0.1, 1.1]
    ),
    "Normal, fixed scale": Likelihood(lambda k: models.Normal(net(k, D), scale=0.7), real),
    "Normal, per model": Likelihood(lambda k: models.Normal(net(k, D), scale=PositiveParameter(0.7)), real),
    "Normal, per feature": Likelihood(lambda k: models.Normal(net(k, D), scale=per_feature(0.7)), real),
    "Normal, by network": Likelihood(lambda k: models.Normal(net(k, (D, D))), real),
    "Laplace, per feature": Likelihood(lambda k: models.Laplace(net(k, D), scale=per_feature(0.7)), real),
    "Laplace, by network": Likelihood(lambda k: models.Laplace(net(k, (D, D))), real),
    "StudentT, fixed df": Likelihood(
        lambda k: models.StudentT(net(k, D), scale=PositiveParameter(0.7), df=8), real
    ),
    "StudentT, learned df": Likelihood(
        lambda k: models.StudentT(net(k, (D, D)), df=PositiveParameter(8.0)), real
    ),
    "Categorical": Likelihood(
        lambda k: models.Categorical(net(k, D * OPTIONS), num_options=OPTIONS),
        lambda B: torch.randint(OPTIONS, (B, D)).float(),
        bad=lambda: [-1.0, OPTIONS, 0.5],
        values=torch.arange(float(OPTIONS)),
        has_mean=False,
    ),
    "Ordered": Likelihood(
        lambda k: models.Ordered(net(k, D), OPTIONS, D),
        lambda B: torch.randint(OPTIONS, (B, D)).float(),
        bad=lambda: [-1.0, OPTIONS, 0.5],
        values=torch.arange(float(OPTIONS)),
        has_mean=False,
    ),
    "Normal, in units": Likelihood(
        lambda k: models.Normal(net(k, (D, D)), units=units()), lambda B: 20 + 3 * real(B)
    ),
    "LogNormal, by network": Likelihood(
        lambda k: models.LogNormal(net(k, (D, D))), lambda B: real(B).exp(), bad=lambda: [-1.0]
    ),
    "LogNormal, in units": Likelihood(
        lambda k: models.LogNormal(net(k, (D, D)), units=units(2.0, 0.3)),
        lambda B: (2 + 0.3 * real(B)).exp(),
        bad=lambda: [-1.0],
    ),
    "TruncatedNormal": Likelihood(
        lambda k: models.TruncatedNormal(net(k, (D, D))), lambda B: torch.rand(B, D), bad=lambda: [-0.1, 1.1]
    ),
    "TruncatedNormal, other ends": Likelihood(
        lambda k: models.TruncatedNormal(net(k, (D, D)), torch.tensor([0.0, -1.0, 5.0]), 7.0, 0.1),
        lambda B: 5 + 2 * torch.rand(B, D),
        bad=lambda: [-2.0, 7.1],
    ),
    "DiscretizedLogistic, by network": Likelihood(
        lambda k: models.DiscretizedLogistic(net(k, (D, D))),
        lambda B: torch.randint(256, (B, D)).float(),
        bad=lambda: [-1.0, 256.0, 0.5],
        values=torch.arange(256.0),
    ),
    "DiscretizedLogistic, per feature": Likelihood(
        lambda k: models.DiscretizedLogistic(net(k, D), scale=per_feature(0.05)),
        lambda B: torch.randint(256, (B, D)).float(),
        bad=lambda: [-1.0, 256.0, 0.5],
        values=torch.arange(256.0),
    ),
    "Poisson": Likelihood(lambda k: models.Poisson(net(k, D)), counts, bad=_WHOLE, values=MANY),
    "Poisson, library size": Likelihood(
        lambda k: models.Poisson(net(k, D), library_size=True), counts, library, _WHOLE, MANY
    ),
    "NegativeBinomial, per feature": Likelihood(
        lambda k: models.NegativeBinomial(net(k, D), per_feature(0.5)), counts, bad=_WHOLE, values=MANY
    ),
    "NegativeBinomial, typical means": Likelihood(
        lambda k: models.NegativeBinomial(net(k, (D, D)), typical=torch.tensor([1.0, 3.0, 0.5])),
        counts,
        bad=_WHOLE,
        values=MANY,
    ),
    "NegativeBinomial, near Poisson": Likelihood(
        lambda k: models.NegativeBinomial(net(k, D), PositiveParameter(1e-3)), counts, bad=_WHOLE, values=MANY
    ),
    "Poisson, exposure": Likelihood(
        lambda k: models.Poisson(net(k, D), exposure=True), counts, library, _WHOLE, MANY
    ),
    "NegativeBinomial, by network, library size": Likelihood(
        lambda k: models.NegativeBinomial(net(k, (D, D)), library_size=True), counts, library, _WHOLE, MANY
    ),
    "ZeroInflatedNegativeBinomial": Likelihood(
        lambda k: models.ZeroInflatedNegativeBinomial(net(k, (D, D, D))), counts, bad=_WHOLE, values=MANY
    ),
    "ZeroInflatedNegativeBinomial, library size": Likelihood(
        lambda k: models.ZeroInflatedNegativeBinomial(net(k, (D, D)), per_feature(0.5), library_size=True),
        counts,
        library,
        _WHOLE,
        MANY,
    ),
    "Multinomial": Likelihood(lambda k: models.Multinomial(net(k, D)), counts, total, _WHOLE),
    "Multinomial, one total": Likelihood(
        lambda k: models.Multinomial(net(k, D), total_count=5), fixed_total, bad=_WHOLE
    ),
}


def guide(in_features: int) -> AmortizedGuide:
    return AmortizedGuide(DiagonalNormal(net(in_features, (K, K))))


def latent_variable() -> tuple[nn.Module, nn.Module]:
    return models.LatentVariableModel(models.StandardNormal(K), models.Bernoulli(net(K, D))), guide(D)


MIXED_COLUMNS = [[0, 3], [1], [4, 2]]


def mixed_table() -> tuple[nn.Module, nn.Module]:
    parts = [
        (MIXED_COLUMNS[0], models.Normal(net(K, (2, 2)))),
        (MIXED_COLUMNS[1], models.Categorical(net(K, OPTIONS), num_options=OPTIONS)),
        (MIXED_COLUMNS[2], models.NegativeBinomial(net(K, 2), dispersion=PositiveParameter(0.5))),
    ]
    encoder = DiagonalNormal(MissingAsZero(net(10, (K, K))))
    return models.MixedTableModel(models.LearnedNormal(K), parts), AmortizedGuide(encoder)


def mixed_rows(rows: int) -> tuple[Tensor, ...]:
    whole = counts(rows)
    numbers = torch.randn(rows, 2)
    label = torch.randint(OPTIONS, (rows,)).float()
    x = torch.stack([numbers[:, 0], label, whole[:, 0], numbers[:, 1], whole[:, 1]], 1)
    absent = torch.rand(rows, 5) > 0.7
    absent[:, 0] &= ~absent.all(1)
    return (x.masked_fill(absent, torch.nan),)


def autoregressive() -> tuple[nn.Module, nn.Module]:
    likelihood = models.AutoregressiveCategorical(AutoregressiveGRU(K, OPTIONS, hidden_size=5), num_steps=4)
    encoder = SequenceEncoder(3, (K, K), hidden_size=5, embedding=nn.Embedding(OPTIONS, 3))
    model = models.LatentVariableModel(models.StandardNormal(K), likelihood)
    return model, AmortizedGuide(DiagonalNormal(encoder))


def ragged(rows: int) -> Tensor:
    return 1 + torch.arange(rows) % 4


def deep_markov() -> tuple[nn.Module, nn.Module]:
    transition = models.Normal(GatedTransition(K, hidden_size=5))
    model = models.DeepMarkovModel(models.LearnedNormal(K), transition, models.Normal(net(K, (D, D))))
    step = DiagonalNormal(net(K + 5, (K, K)))
    return model, AmortizedGuide(MarkovPosterior(GRU(D, 5, past=False, future=True), step, K))


def linear_gaussian() -> tuple[nn.Module, nn.Module]:
    return models.LinearGaussian(K, D), guide(D)


def linear_gaussian_chain() -> tuple[nn.Module, nn.Module]:
    model = models.LinearGaussianChain(K, D)
    return model, guides.ExactGuide(model)


def hierarchical() -> tuple[nn.Module, nn.Module]:
    priors = [models.StandardNormal(K), models.Normal(net(K, (K, K)))]
    model = models.HierarchicalModel(priors, models.Bernoulli(net(K, D)))
    return model, HierarchicalGuide([DiagonalNormal(net(D, (K, K))), DiagonalNormal(net(D + K, (K, K)))])


class TwoModalities(nn.Module):
    """p(z) p(x|z) p(y|z): rows of real numbers, and bits beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = models.LearnedNormal(K)
        self.x, self.y = models.Normal(net(K, D), scale=per_feature(0.7)), models.Bernoulli(net(K, 2))

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.x(z), obs=x)
            pyro.sample("y", self.y(z), obs=y)


def experts(model: TwoModalities, together: type[guides.experts.Experts]) -> AmortizedGuide:
    reals = DiagonalNormal(MissingAsZero(net(2 * D, (K, K))))
    return AmortizedGuide(together([reals, DiagonalNormal(net(2, (K, K)))], model.prior))


def two_modalities() -> tuple[nn.Module, nn.Module]:
    model = TwoModalities()
    return model, experts(model, guides.ProductOfExperts)


def lacking(rows: int) -> tuple[Tensor, ...]:
    """Rows of two modalities: some lack one as a whole, or an entry of the first."""
    x, y = real(rows), torch.bernoulli(torch.full((rows, 2), 0.5))
    which = torch.arange(rows) % 4
    x[which == 1], y[which == 2] = torch.nan, torch.nan
    x[which == 3, 1] = torch.nan
    return x, y


def gaussian_mixture() -> tuple[nn.Module, nn.Module]:
    return models.GaussianMixture(3, D), EmptyGuide()


MODELS = {
    "GaussianMixture": Model(gaussian_mixture, lambda B: (real(B),)),
    "HierarchicalModel": Model(hierarchical, lambda B: (torch.bernoulli(torch.full((B, D), 0.5)),)),
    "AutoregressiveCategorical": Model(autoregressive, lambda B: (torch.randint(OPTIONS, (B, 4)), ragged(B))),
    "DeepMarkovModel": Model(deep_markov, lambda B: (torch.randn(B, 4, D), ragged(B))),
    "LinearGaussian": Model(linear_gaussian, lambda B: (real(B),)),
    "LinearGaussianChain": Model(linear_gaussian_chain, lambda B: (torch.randn(B, 4, D), ragged(B))),
    "LatentVariableModel": Model(latent_variable, lambda B: (torch.bernoulli(torch.full((B, D), 0.5)),)),
    "MixedTableModel": Model(mixed_table, mixed_rows),
    "ProductOfExperts, two modalities": Model(two_modalities, lacking),
}


def of_flow(q: Any) -> Tensor:
    return q.transforms[-1].scale


def of_low_rank(q: Any) -> Tensor:
    return torch.cat([q.cov_diag, q.cov_diag.sqrt(), q._capacitance_tril[..., 0]], -1)


POSTERIORS = {
    "IsotropicNormal": Posterior(lambda n, K: guides.IsotropicNormal(n((K, 1)))),
    "DiagonalNormal": Posterior(lambda n, K: guides.DiagonalNormal(n((K, K)))),
    "LowRankNormal": Posterior(lambda n, K: guides.LowRankNormal(n((K, K, K * 1))), of_low_rank),
    "FullNormal": Posterior(
        lambda n, K: guides.FullNormal(n((K, K, K * (K - 1) // 2))),
        lambda q: q.scale_tril.diagonal(dim1=-2, dim2=-1),
    ),
    "MixtureOfNormals": Posterior(
        lambda n, K: guides.MixtureOfNormals(n((3 * K, 3 * K, 3))),
        lambda q: q.component_distribution.base_dist.scale,
    ),
    "Flow": Posterior(
        lambda n, K: guides.Flow(n((K, K, H)), K, H, guides.CouplingFlow(n((K, K, H)), K, H).transforms),
        of_flow,
        layer_networks=4,
    ),
    "InverseAutoregressiveFlow": Posterior(
        lambda n, K: guides.InverseAutoregressiveFlow(n((K, K, H)), K, H), of_flow, layer_networks=2
    ),
    "CouplingFlow": Posterior(
        lambda n, K: guides.CouplingFlow(n((K, K, H)), K, H), of_flow, layer_networks=4
    ),
    # Pyro's splines shift their knots by 1e-6 where they look for a value's segment.
    "NeuralSplineFlow": Posterior(
        lambda n, K: guides.NeuralSplineFlow(n((K, K, H)), K, H), of_flow, layer_networks=4, tolerance=1e-4
    ),
}

# For derived guides; the layers of a plain Flow are given and no family has them.
FAMILIES = {name: partial(headed, getattr(guides, name)) for name in POSTERIORS if name != "Flow"}


def diagonal(in_features: int) -> DiagonalNormal:
    return DiagonalNormal(MLP(in_features, (K, K)))


GUIDES = {
    "AmortizedGuide": Guide("LatentVariableModel", lambda model: guide(D)),
    "AutoGuide": Guide("LatentVariableModel", guides.AutoGuide),
    "BottomUpGuide": Guide(
        "HierarchicalModel", lambda model: guides.BottomUpGuide([diagonal(K), diagonal(D)])
    ),
    "EmptyGuide": Guide("GaussianMixture", lambda model: EmptyGuide()),
    "ExactGuide": Guide("LinearGaussian", guides.ExactGuide),
    "ExactGuide, of a chain": Guide("LinearGaussianChain", guides.ExactGuide),
    "HierarchicalGuide": Guide(
        "HierarchicalModel", lambda model: HierarchicalGuide([diagonal(D), diagonal(D + K)])
    ),
    "LadderGuide": Guide(
        "HierarchicalModel", lambda model: guides.LadderGuide(model, [diagonal(D), diagonal(D)])
    ),
    "MixtureOfExperts": Guide(
        "ProductOfExperts, two modalities", lambda model: experts(model, guides.MixtureOfExperts)
    ),
    "MarkovPosterior": Guide("DeepMarkovModel", lambda model: deep_markov()[1]),
}
