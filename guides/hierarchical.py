"""Guides of `pyrovae.models.HierarchicalModel`: three ways to factorize q(z1, ..., zk | x).

    HierarchicalGuide   q(z1|x) q(z2|z1,x) ... q(zk|zk-1,x)     from the top, like the model
    BottomUpGuide       q(zk|x) q(zk-1|zk) ... q(z1|z2)         from the data
    LadderGuide         from the top, each level the model's prior corrected by the data

The true posterior has the first two factorizations. All take their parts from the top: the first is of "z1".
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyrovae.conditional_distribution import ConditionalDistribution, as_module
from pyrovae.guides.experts import product_of_normals
from pyrovae.models.hierarchical import HierarchicalModel


class HierarchicalGuide(nn.Module):
    """q(z1|x,c) q(z2|z1,x,c) ... q(zk|zk-1,x,c): sampled from the top down.

    Args:
        posteriors: k conditional distributions, from the top: the first of (x, context), each next one of
            (the latent above it, x, context).
        features: a network of x whose output the posteriors take in the place of x; it runs once a batch.

    Raises:
        ValueError: no posteriors.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.nn import MLP
        >>> posteriors = [DiagonalNormal(MLP(32, (2, 2))), DiagonalNormal(MLP(2 + 32, (8, 8)))]
        >>> guide = HierarchicalGuide(posteriors, features=MLP(64, 32))

    """

    def __init__(
        self, posteriors: Sequence[ConditionalDistribution], features: nn.Module | None = None
    ) -> None:
        super().__init__()
        _check_posteriors(posteriors)
        self.posteriors = nn.ModuleList(map(as_module, posteriors))
        self.features = nn.Identity() if features is None else features

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Sample the latents of rows x, [B, *event]."""
        features = self.features(x)
        with pyro.plate("rows", len(x)):
            above: tuple[Tensor, ...] = ()
            for level, posterior in enumerate(self.posteriors, start=1):
                above = (pyro.sample(f"z{level}", posterior(*above, features, *context)),)


class BottomUpGuide(nn.Module):
    """q(zk|x,c) q(zk-1|zk,c) ... q(z1|z2,c): sampled from the data up.

    Given the latent below it, a latent of the true posterior does not depend on x either.

    Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (2015),
    https://arxiv.org/abs/1509.00519.

    Args:
        posteriors: k conditional distributions, from the top: the last of (x, context), each other one of
            (the latent below it, context).

    Raises:
        ValueError: no posteriors.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.nn import MLP
        >>> guide = BottomUpGuide([DiagonalNormal(MLP(8, (2, 2))), DiagonalNormal(MLP(64, (8, 8)))])

    """

    def __init__(self, posteriors: Sequence[ConditionalDistribution]) -> None:
        super().__init__()
        _check_posteriors(posteriors)
        self.posteriors = nn.ModuleList(map(as_module, posteriors))

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Sample the latents of rows x, [B, *event]."""
        below = x
        with pyro.plate("rows", len(x)):
            for level in range(len(self.posteriors), 0, -1):
                below = pyro.sample(f"z{level}", self.posteriors[level - 1](below, *context))


class LadderGuide(nn.Module):
    """Top-down inference that shares the model's generative path: data correct the prior, level by level.

        d_k = f_k(x), d_i = f_i(d_{i+1})                         a deterministic path up
        q(z1|x)         = N(m_1(d_1), s_1(d_1)^2)
        q(zi|zi-1,x)    proportional to N(zi; m_i(d_i), s_i(d_i)^2) p(zi|zi-1)

    that is, the mean of the estimate from below and of the model's prior, weighted by their precisions.

    Sønderby, Raiko, Maaløe, Sønderby, Winther, "Ladder Variational Autoencoders" (2016),
    https://arxiv.org/abs/1602.02282.

    Args:
        model: the model whose priors are shared. They stay the model's parameters, not this guide's, and are
            trained through both. Below the top they must be diagonal normals such as `models.Normal`.
        estimates: k conditional distributions, diagonal normals such as `DiagonalNormal`, from the top: each of
            (d_i, context).
        path: k networks, from the top: the last of x, each other one of the output of the one below. None:
            every estimate is of x itself.

    Raises:
        TypeError: `model` is not a `HierarchicalModel`; at a call, an estimate or a prior below the top that
            is not a diagonal normal.
        ValueError: another number of estimates or networks than the model has levels.

    Example:
        >>> from pyrovae.guides import DiagonalNormal
        >>> from pyrovae.models import Bernoulli, Normal, StandardNormal
        >>> from pyrovae.nn import MLP
        >>> model = HierarchicalModel([StandardNormal(2), Normal(MLP(2, (8, 8)))], Bernoulli(MLP(8, 64)))
        >>> estimates = [DiagonalNormal(MLP(16, (2, 2))), DiagonalNormal(MLP(32, (8, 8)))]
        >>> guide = LadderGuide(model, estimates, path=[MLP(32, 16, [32]), MLP(64, 32, [64])])

    """

    def __init__(
        self,
        model: HierarchicalModel,
        estimates: Sequence[ConditionalDistribution],
        path: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, HierarchicalModel):
            raise TypeError(
                f"model is {type(model).__name__}: expected the HierarchicalModel whose priors this guide shares."
            )
        levels = len(model.priors)
        for name, parts in (("estimates", estimates), ("networks of the path", path)):
            if parts is not None and len(parts) != levels:
                raise ValueError(
                    f"got {len(parts)} {name}: the model has {levels} levels, so expected {levels}, from the top."
                )
        # In a tuple, so that the model's parameters do not become this module's too.
        self._shared = (model,)
        self.estimates = nn.ModuleList(map(as_module, estimates))
        self.path = None if path is None else nn.ModuleList(path)

    def forward(self, x: Tensor, *context: Tensor) -> None:
        """Sample the latents of rows x, [B, *event]."""
        features = self._features(x)
        priors = self._shared[0].priors
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z1", self.estimates[0](features[0], *context))
            for i in range(1, len(priors)):
                estimate = self.estimates[i](features[i], *context)
                prior = priors[i](z, *context)
                z = pyro.sample(f"z{i + 1}", product_of_normals(estimate, prior))

    def _features(self, x: Tensor) -> list[Tensor]:
        """d_1, ..., d_k."""
        if self.path is None:
            return [x] * len(self.estimates)
        features = [x]
        for network in reversed(self.path):
            features.insert(0, network(features[0]))
        return features[:-1]


def _check_posteriors(posteriors: Sequence[ConditionalDistribution]) -> None:
    if not posteriors:
        raise ValueError("posteriors is empty: expected one conditional distribution for each level.")
