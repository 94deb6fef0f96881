"""The Gaussian mixture model, its discrete latent summed out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.nn import PositiveParameter


class GaussianMixture(nn.Module):
    """A component "k" for each row, and "x" a normal of its own mean and full covariance given it.

        k ~ Categorical(w)    x|k ~ N(m_k, L_k L_k^T)
        p(x) = sum_k w_k N(x; m_k, L_k L_k^T)    p(k|x) = w_k N(x; m_k, L_k L_k^T) / p(x)

    Bishop, "Pattern Recognition and Machine Learning" (2006), section 9.2,
    https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/.
    The program marks k to be enumerated, so that its guide samples nothing (`pyrovae.guides.EmptyGuide`),
    the ELBO is log p(x) and `fit` climbs it. The likelihood has many maxima: train from several starts,
    `start_at(x)`, and keep the best. It has poles too, where a component closes on a single point; keep the
    number of components small against the rows.

    Args:
        num_components: C.
        num_features: D.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> import pyrovae as pv
        >>> model = GaussianMixture(5, num_features=2)
        >>> vae = pv.VAE(model, pv.guides.EmptyGuide())
        >>> model.responsibilities(torch.zeros(7, 2)).shape
        torch.Size([7, 5])

    """

    def __init__(self, num_components: int, num_features: int) -> None:
        super().__init__()
        if num_components < 1 or num_features < 1:
            raise ValueError(
                f"num_components is {num_components} and num_features {num_features}: expected at least 1 each."
            )
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.locations = nn.Parameter(torch.randn(num_components, num_features))
        self.scales = PositiveParameter(torch.ones(num_components, num_features))
        self.below = nn.Parameter(torch.zeros(num_components, num_features * (num_features - 1) // 2))

    def forward(self, x: Tensor) -> None:
        """The generative story for rows x, [B,D]."""
        scale_tril = self.scale_tril
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.MultivariateNormal(self.locations[k], scale_tril=scale_tril[k]), obs=x)

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors L_k of the covariances, [C,D,D]."""
        size = self.locations.shape[1]
        row, column = torch.tril_indices(size, size, offset=-1, device=self.locations.device)
        factor = torch.diag_embed(self.scales())
        factor[:, row, column] = self.below
        return factor

    def log_marginal(self, x: Tensor) -> Tensor:
        """The evidence log p(x) of rows x [..., D]: [...], in nats."""
        return self._log_joint(x).logsumexp(-1).to(x.dtype)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k|x) of rows x [..., D]: [..., C]."""
        return self._log_joint(x).softmax(-1).to(x.dtype)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> GaussianMixture:
        """Start afresh from rows x [N,D]: means at rows drawn at random, covariances and weights equal.

        Each covariance is that of all rows. Draws come from torch's random state: another seed, another start.
        Returns self.

        Raises:
            ValueError: rows of another size, fewer rows than components, or features that are constant or
                determined by others.

        """
        C, D = self.locations.shape
        if x.dim() != 2 or x.shape[1] != D or len(x) < max(C, D + 1):
            raise ValueError(
                f"x has shape {list(x.shape)}: expected [N, {D}] with N at least {max(C, D + 1)} for {C} components."
            )
        chosen = x[torch.randperm(len(x))[:C].to(x.device)]
        covariance = torch.cov(x.double().mT, correction=0).reshape(D, D)
        return self.set_parameters(torch.full((C,), 1 / C), chosen, covariance.expand(C, D, D))

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """Set w [C], m [C,D] and the covariances [C,D,D], arrays or tensors; returns self.

        From a fitted `sklearn.mixture.GaussianMixture`, em: `em.weights_`, `em.means_`, `em.covariances_`.

        Raises:
            ValueError: another shape than the model's, weights that are not positive, or a covariance that is
                not positive definite; nothing is set.

        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        C, D = self.locations.shape
        shapes = {"weights": [C], "means": [C, D], "covariances": [C, D, D]}
        device = self.locations.device
        values = {
            name: torch.as_tensor(value, dtype=torch.float64, device=device) for name, value in given.items()
        }
        for name, value in values.items():
            if list(value.shape) != shapes[name]:
                raise ValueError(f"{name} has shape {list(value.shape)}: the model's is {shapes[name]}.")
        if not bool((values["weights"] > 0).all()):
            raise ValueError(
                f"the smallest weight is {float(values['weights'].min()):.3g}: expected above 0."
            )
        factor, failed = torch.linalg.cholesky_ex(values["covariances"])
        if bool(failed.any()) or not bool((factor.diagonal(dim1=-2, dim2=-1) > 1e-6).all()):
            raise ValueError(
                "a covariance is not positive definite: expected standard deviations above 1e-6. Drop features that "
                "are constant or determined by others."
            )
        row, column = torch.tril_indices(D, D, offset=-1, device=device)
        scales = factor.diagonal(dim1=-2, dim2=-1).to(self.locations)
        self.logits.copy_(values["weights"].log())
        self.locations.copy_(values["means"])
        self.scales.raw.copy_(PositiveParameter(scales).raw)
        self.below.copy_(factor[:, row, column])
        return self

    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, k), [..., C], in double precision: densities far from a component cancel."""
        components = dist.MultivariateNormal(self.locations.double(), scale_tril=self.scale_tril.double())
        log_weights = self.logits.double().log_softmax(0)
        log_joint: Tensor = components.log_prob(x.double().unsqueeze(-2)) + log_weights
        return log_joint
