"""The rate-distortion curve: what a family of models trades between its two costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pandas as pd

from pyrovae.checks import check_count
from pyrovae.evidence.bound import elbo
from pyrovae.progress import Bar
from pyrovae.random_state import seeds_from
from pyrovae.vae import VAE


def rate_distortion(
    fit_at: Callable[[float], VAE],
    betas: Iterable[float],
    x: object,
    *context: object,
    num_samples: int = 10,
    seed: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Train a VAE for each weight beta of the rate, and see its rate and distortion on the same rows.

        loss(beta) = distortion + beta * rate,    distortion = -E_q[log p(x|z)],    rate = KL(q(z|x) || p(z))

    "Fixing a Broken ELBO" (Alemi, Poole, Fischer, Dillon, Saurous, Murphy, 2018), https://arxiv.org/abs/1711.00464.
    The ELBO is -(rate + distortion), so that points of equal ELBO lie on a line: models of one ELBO can differ in
    all that their latents say of x. Where rows share latents theta, rate and distortion are those of rows given theta,
    averaged over q(theta); theta's own rate, paid once for all rows (`elbo(...).shared`), is no part of them.

    Args:
        fit_at: given beta, a VAE trained with it: a new one each time, of one architecture.
        betas: weights of the rate, positive.
        x: [N, ...]; held-out rows.
        context: what the pair takes beside `x`.
        num_samples: S of `elbo`.
        seed: draws of the evaluation are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar over the betas.

    Returns:
        One row a beta, in the order given: `beta, rate, rate_error, distortion, distortion_error, elbo`; nats per
        row, the errors over rows (NaN for a single row).

    Raises:
        TypeError: `fit_at` gives something else than a VAE.
        ValueError: no beta, or one that is not positive; what `elbo` raises.

    Example:
        >>> import pyrovae as pv
        >>> def fit_at(beta):
        ...     model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6)))
        ...     return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))))
        >>> curve = pv.rate_distortion(fit_at, [0.5, 1.0], torch.ones(20, 6), seed=0)  # here: not trained
        >>> curve.columns.tolist()
        ['beta', 'rate', 'rate_error', 'distortion', 'distortion_error', 'elbo']

    """
    check_count("num_samples", num_samples)
    weights = [float(beta) for beta in betas]
    if not weights or not all(0 < beta < math.inf for beta in weights):
        raise ValueError(f"betas are {weights}: expected one or more positive numbers.")
    data, seeds = None, seeds_from(seed)
    lines = []
    with Bar("rate-distortion", " VAE", shown=progress, total=len(weights)) as bar:
        for beta in weights:
            vae = fit_at(beta)
            if not isinstance(vae, VAE):
                raise TypeError(
                    f"fit_at({beta}) gave {type(vae).__name__}: expected the trained pyrovae.VAE."
                )
            data = vae.rows(x, *context) if data is None else data
            found = elbo(vae, data, num_samples=num_samples, seed=next(seeds))
            rate, distortion = found.rate, -found.reconstruction
            errors = [
                float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                for values in (rate, distortion)
            ]
            lines.append(
                (
                    beta,
                    float(rate.mean()),
                    errors[0],
                    float(distortion.mean()),
                    errors[1],
                    float(found.elbo.mean()),
                )
            )
            bar.update()
    return pd.DataFrame(
        lines, columns=["beta", "rate", "rate_error", "distortion", "distortion_error", "elbo"]
    )
