"""The linear-Gaussian model, whose posterior and evidence have closed forms."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.nn import PositiveParameter


class LinearGaussian(nn.Module):
    """Probabilistic PCA, or factor analysis with `noise_per_feature`: a baseline, and an oracle for estimates.

        z ~ N(0, I_K)    x|z ~ N(W z + mean, Psi)    Psi = sigma^2 I, or one variance per feature
        x ~ N(mean, W W^T + Psi)    z|x ~ N(M^-1 W^T Psi^-1 (x - mean), M^-1)    M = I + W^T Psi^-1 W

    Tipping & Bishop, "Probabilistic Principal Component Analysis" (1999),
    https://doi.org/10.1111/1467-9868.00196.
    W, mean and noise are parameters and train like any other model's; `set_maximum_likelihood` and
    `set_parameters` give them values. Its exact posterior is a guide as `pyrovae.guides.ExactGuide(model)`.

    Args:
        latent_size: K, below D.
        num_features: D.
        noise_per_feature: factor analysis.

    Raises:
        ValueError: K not between 1 and D - 1.

    Example:
        >>> model = LinearGaussian(2, 64).set_maximum_likelihood(torch.rand(100, 64))
        >>> model.log_marginal(torch.rand(5, 64)).shape, model.posterior(torch.rand(5, 64)).event_shape
        (torch.Size([5]), torch.Size([2]))

    """

    def __init__(self, latent_size: int, num_features: int, *, noise_per_feature: bool = False) -> None:
        super().__init__()
        if not 1 <= latent_size < num_features:
            raise ValueError(
                f"latent_size is {latent_size} and num_features {num_features}: expected 1 <= latent_size < "
                "num_features."
            )
        self.noise_per_feature = noise_per_feature
        self.loading = nn.Parameter(torch.randn(num_features, latent_size) / math.sqrt(latent_size))
        self.mean = nn.Parameter(torch.zeros(num_features))
        self.noise_scale = PositiveParameter(torch.ones([num_features] if noise_per_feature else []))

    def forward(self, x: Tensor) -> None:
        """The generative story for rows x, [B,D]."""
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.loading.new_zeros(self.loading.shape[1]), 1.0).to_event(1))
            location = z @ self.loading.mT + self.mean
            pyro.sample("x", dist.Normal(location, self.noise_scale()).to_event(1), obs=x)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """p(z|x), event [K], for x [..., D]."""
        # Double precision inside: M joins 1 and the ratio of signal to noise, many orders of magnitude apart.
        loading, variance = self.loading.double(), self.noise_scale().double() ** 2
        weighted = loading / variance.unsqueeze(-1)
        eye = torch.eye(loading.shape[1], dtype=loading.dtype, device=loading.device)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(eye + weighted.mT @ loading))
        location = (x - self.mean).double() @ weighted @ covariance
        return dist.MultivariateNormal(
            location.to(x.dtype), scale_tril=torch.linalg.cholesky(covariance).to(x.dtype)
        )

    def log_marginal(self, x: Tensor) -> Tensor:
        """The evidence log p(x) of rows x [..., D]: [...], in nats."""
        variance = self.noise_scale().double().expand(len(self.mean)) ** 2
        marginal = dist.LowRankMultivariateNormal(self.mean.double(), self.loading.double(), variance)
        return marginal.log_prob(x.double()).to(x.dtype)

    @torch.no_grad()
    def set_maximum_likelihood(self, x: Tensor) -> LinearGaussian:
        """Set the parameters that maximize the likelihood of rows x [N,D]; returns self.

        Tipping & Bishop, eq. 7 and 8: sigma^2 is the mean of the D - K smallest eigenvalues of the
        covariance (divided by N), W = V_K (Lambda_K - sigma^2)^(1/2).

        Raises:
            ValueError: factor analysis (it has no closed form), rows of another size, too few rows, or rows
                that K dimensions explain without noise.

        """
        num_features, latent_size = self.loading.shape
        if self.noise_per_feature:
            raise ValueError(
                "factor analysis has no maximum of the likelihood in closed form: train the model with pv.fit and "
                "ExactGuide, or give the arrays of sklearn.decomposition.FactorAnalysis to set_parameters."
            )
        if x.dim() != 2 or x.shape[1] != num_features or len(x) <= latent_size + 1:
            raise ValueError(
                f"x has shape {list(x.shape)}: expected [N, {num_features}] with N above {latent_size + 1}."
            )
        x = x.double()
        mean = x.mean(0)
        _, singular, directions = torch.linalg.svd(x - mean, full_matrices=False)
        eigenvalues = singular**2 / len(x)
        variance = eigenvalues[latent_size:].sum() / (num_features - latent_size)
        scales = (eigenvalues[:latent_size] - variance).clamp(min=0.0).sqrt()
        return self.set_parameters(mean, directions[:latent_size].mT * scales, variance)

    @torch.no_grad()
    def set_parameters(self, mean: Tensor, loading: Tensor, noise_variance: float | Tensor) -> LinearGaussian:
        """Set mean [D], W [D,K] and the noise's variance (a number, or [D]), arrays or tensors; returns self.

        From a fitted `sklearn.decomposition.PCA`, pca: `pca.mean_`, `pca.components_.T *
        np.sqrt(pca.explained_variance_ - pca.noise_variance_)`, `pca.noise_variance_`; from a fitted
        `FactorAnalysis`, fa: `fa.mean_`, `fa.components_.T`, `fa.noise_variance_`.

        Raises:
            ValueError: another shape than the model's, or a variance that is not positive; nothing is set.

        """
        given = {"mean": mean, "loading": loading, "noise_variance": noise_variance}
        own = {"mean": self.mean, "loading": self.loading, "noise_variance": self.noise_scale.raw}
        values = {name: torch.as_tensor(value).to(self.mean) for name, value in given.items()}
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"{name} has shape {list(value.shape)}: the model's is {list(own[name].shape)}."
                )
        if not bool((values["noise_variance"] > 1e-12).all()):
            raise ValueError(
                f"the smallest noise variance is {float(values['noise_variance'].min()):.3g}: expected more than "
                "1e-12. Drop features that are constant or determined by others, or take a smaller latent_size."
            )
        self.mean.copy_(values["mean"])
        self.loading.copy_(values["loading"])
        self.noise_scale.raw.copy_(PositiveParameter(values["noise_variance"].sqrt()).raw)
        return self
