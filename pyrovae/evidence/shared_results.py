"""What evaluations say of latents that rows share, beside their figures by row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedRate:
    """What latents that rows share cost: KL(q(theta) || p(theta)), once for all rows, in nats, with its error.

    `total` is the sum of the rows' ELBO less that rate: a lower bound of the evidence of these rows, theta included.
    Errors are Monte Carlo's. NaN where the guide has points for theta, which have no rate.
    """

    names: tuple[str, ...]
    rate: float
    rate_error: float
    total: float
    total_error: float


@dataclass(frozen=True)
class SharedSampling:
    """How figures were averaged over latents that rows share: K draws of each row at each of R draws of these.

    `total_error` is the Monte Carlo error of a sum over rows, which all have the same draws of what they share: by the
    jackknife over these, made for intervals of 1.96 errors.
    """

    names: tuple[str, ...]
    num_draws: int
    row_samples: int
    total_error: float

    def __str__(self) -> str:
        return ",".join(self.names)
