"""Weights of models in a mixture of their predictive densities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def stacking_weights(log_densities: Tensor) -> Tensor:
    """argmax_w sum_n log sum_k w_k p_k(x_n) over the simplex, a concave problem, from log p_k(x_n) [N,K]: [K]."""
    from scipy.optimize import minimize  # not at the top: it takes time to import

    # Relative to each row's best, so that no density underflows.
    density = (log_densities - log_densities.amax(1, keepdim=True)).exp().numpy()
    K = density.shape[1]

    def loss(w: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        mixture = np.maximum(density @ w, np.finfo(float).tiny)
        return float(-np.log(mixture).mean()), -(density / mixture[:, None]).mean(0)

    found = minimize(
        loss,
        np.full(K, 1 / K),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * K,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(K)},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.clip(found.x, 0.0, 1.0)
    return torch.as_tensor(weights / weights.sum())
