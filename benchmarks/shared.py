"""Latents above the rows against what is known, `python -m benchmarks.shared`.

Conjugate hierarchies and a Bayesian regression in closed form, leave-one-out in closed form, eight schools by NUTS.
One table alone by its name, `python -m benchmarks.shared conjugate`.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_median

import pyrovae as pv
from benchmarks import report
from tests.shared_models import (
    NOISE,
    SPREAD,
    Regression,
    counts,
    evidence,
    exact_guide,
    hierarchy,
    posterior_of_mean,
    posterior_of_regression,
    predictive,
)

STEPS, REPETITIONS, THETAS, ROW_SAMPLES = 1500, 40, 50, 3
SHORT, WARM_UP, SAMPLES = 1000, 500, 1500


def trained(model: Any, data: Any, steps: int = STEPS, rate: float = 0.02, **guide: Any) -> pv.VAE:
    """A derived guide after so many steps, the last of them short."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    vae = pv.VAE(model, pv.guides.AutoGuide(model, hidden=(16,), **guide), example=data, seed=0)
    N = len(data[0] if isinstance(data, tuple) else data)
    pv.fit(
        vae,
        data,
        epochs=steps,
        batch_size=N,
        optimizer=lambda p: torch.optim.Adam(p, lr=rate),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.003 ** (1 / steps)),
        objective=pv.objectives.ELBO(2),
        seed=0,
        progress=False,
    )
    return vae


def against(name: str, draws: torch.Tensor, mean: float, scale: float) -> dict[str, Any]:
    """A posterior's mean in standard deviations from the exact one, and its scale."""
    return {
        "latent": name,
        "off (sd)": float((draws.mean() - mean) / scale),
        "scale / exact": float(draws.std() / scale),
    }


def conjugate() -> pd.DataFrame:
    """Posteriors of derived guides."""
    torch.manual_seed(5)
    x = 1.0 + 1.1 * torch.randn(30)
    lines = []
    for reads in (False, True):
        vae = trained(hierarchy, x, SHORT, reads_shared=reads)
        line = against("mean", vae.sample_shared(2000, seed=0)["mean"], *posterior_of_mean(x))
        total, error = pv.elbo(vae, x, num_samples=400, seed=0).total
        what = f"normal hierarchy, rows {'read' if reads else 'do not read'} the mean"
        lines.append({"model": what, **line, "evidence - ELBO": evidence(x) - total, "± ": error})
    exact = pv.VAE(hierarchy, exact_guide(x), example=x)
    total, error = pv.elbo(exact, x, num_samples=400, seed=0).total
    lines.append(
        {"model": "normal hierarchy, exact guide", "evidence - ELBO": evidence(x) - total, "± ": error}
    )
    x = torch.poisson(torch.full((25,), 3.3))
    shape, speed = 2.0 + float(x.sum()), 1.0 + len(x)
    vae = trained(counts, x, SHORT)
    line = against("rate", vae.sample_shared(2000, seed=0)["rate"], shape / speed, shape**0.5 / speed)
    total, error = pv.elbo(vae, x, num_samples=400, seed=0).total
    exact_evidence = float(
        math.lgamma(shape) - math.lgamma(2.0) - shape * math.log(speed) - torch.lgamma(x + 1).double().sum()
    )
    lines.append({"model": "gamma-Poisson", **line, "evidence - ELBO": exact_evidence - total, "± ": error})
    x = torch.randn(40, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]) + 0.5
    y = x @ torch.tensor([1.0, -0.5]) + 0.3 + 0.5 * torch.randn(40)
    mean, covariance = posterior_of_regression(x, y)
    for family in (AutoMultivariateNormal, AutoNormal):
        vae = trained(Regression(), (x, y), SHORT, shared_family=family)
        drawn = vae.sample_shared(2000, seed=0)
        flat = torch.cat([drawn["linear.weight"][:, 0], drawn["linear.bias"]], 1)
        for place, name in enumerate(("weight 0", "weight 1", "bias")):
            line = against(name, flat[:, place], float(mean[place]), float(covariance[place, place].sqrt()))
            lines.append({"model": f"regression, {family.__name__}", **line})
    return pd.DataFrame(lines)


def coverage() -> pd.DataFrame:
    """Predictive densities of held-out rows over repetitions, under exact and other guides."""
    torch.manual_seed(5)
    train, test = 1.0 + 1.1 * torch.randn(30), 1.0 + 1.1 * torch.randn(60)

    def other(loc: float, scale: float, slope: float, width: float) -> Callable[[torch.Tensor], None]:
        def guide(x: torch.Tensor) -> None:
            pyro.sample("mean", dist.Normal(loc, scale))
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(slope * x, width))

        return guide

    guides = {
        "exact": (exact_guide(train), predictive(train, test)),
        "rows and theta too wide": (other(0.7, 0.4, 0.5, 1.0), None),
        "rows halved": (other(0.9, 0.2, 0.8, 0.22), None),
    }
    lines = []
    for name, (guide, expected) in guides.items():
        vae = pv.VAE(hierarchy, guide, example=train)
        if expected is None:
            loc, scale = (0.7, 0.4) if "wide" in name else (0.9, 0.2)
            expected = dist.Normal(loc, math.sqrt(scale**2 + SPREAD**2 + NOISE**2)).log_prob(test)
        rows, sums, off = [], [], []
        for seed in range(REPETITIONS):
            found = pv.log_marginal(vae, test, num_samples=THETAS, row_samples=ROW_SAMPLES, seed=seed)
            gap = found.log_marginal - expected.double()
            rows.append((gap.abs() < 1.96 * found.std_error).float().mean())
            value, error = found.total
            sums.append(abs(value - float(expected.double().sum())) < 1.96 * error)
            off.append(float(gap.mean()))
        lines.append(
            {
                "guide": name,
                "off on average (nats per row)": float(np.mean(off)),
                "errors of rows cover": float(torch.stack(rows).mean()),
                "errors of sums cover": float(np.mean(sums)),
            }
        )
    return pd.DataFrame(lines)


def leave_one_out() -> pd.DataFrame:
    """az.loo of draws against the predictive densities of a posterior without each row."""
    lines = []
    for seed in range(5):
        torch.manual_seed(seed)
        x = 1.0 + 1.1 * torch.randn(40)
        vae = pv.VAE(hierarchy, exact_guide(x), example=x)
        found = pv.to_arviz(vae, x, num_samples=500, row_samples=5, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loo = az.loo(found)
        total = float(getattr(loo, "elpd_loo", getattr(loo, "elpd", math.nan)))
        exact = sum(float(predictive(torch.cat([x[:n], x[n + 1 :]]), x[n : n + 1])) for n in range(len(x)))
        lines.append(
            {
                "seed": seed,
                "az.loo": total,
                "exact": exact,
                "off / its error": (total - exact) / float(loo.se),
            }
        )
    return pd.DataFrame(lines)


Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y: torch.Tensor, error: torch.Tensor) -> None:
    """Effects of coaching, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, error), obs=y)


def eight_schools() -> pd.DataFrame:
    """Eight schools by NUTS, and by guides of theta with rows that read it."""
    torch.manual_seed(0)
    sampler = MCMC(NUTS(schools), num_samples=SAMPLES, warmup_steps=WARM_UP, disable_progbar=True)
    sampler.run(Y, ERROR)
    exact = sampler.get_samples()
    exact["effects"] = exact["mu"][:, None] + exact["tau"][:, None] * exact["eta"]
    lines = [_of_schools("NUTS", exact)]
    for family in (lambda model: AutoNormal(model, init_loc_fn=init_to_median), AutoMultivariateNormal):
        name = getattr(family, "__name__", "").replace("<lambda>", "AutoNormal")
        vae = trained(schools, (Y, ERROR), shared_family=family, reads_shared=True)
        idata = pv.to_arviz(vae, Y, ERROR, num_samples=500, resample_from=1000, row_samples=20, seed=0)
        plain = pv.to_arviz(vae, Y, ERROR, num_samples=500, row_samples=20, seed=0)
        for how, found in ((name, plain), (f"{name}, resampled", idata)):
            drawn = {n: torch.as_tensor(found.posterior[n].values[0]) for n in ("mu", "tau", "eta")}
            drawn["effects"] = drawn["mu"][:, None] + drawn["tau"][:, None] * drawn["eta"]
            lines.append({**_of_schools(how, drawn), "k": float(found.sample_stats["khat"])})
    return pd.DataFrame(lines)


def _of_schools(name: str, drawn: dict[str, torch.Tensor]) -> dict[str, Any]:
    line: dict[str, Any] = {"by": name}
    for latent in ("mu", "tau"):
        line |= {f"{latent}": float(drawn[latent].mean()), f"sd({latent})": float(drawn[latent].std())}
    for school in (0, 2):
        effects = drawn["effects"][:, school]
        line |= {
            f"effect {school + 1}": float(effects.mean()),
            f"sd(effect {school + 1})": float(effects.std()),
        }
    return line


def tables(name: str) -> None:
    """Write one of the tables."""
    settings = {
        "training": f"{STEPS} steps on all rows (conjugate models {SHORT}), Adam from 0.02 to 6e-5, 2 draws; rows' "
        "encoder of 16 units",
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "arviz": az.__version__,
    }
    if name == "loo":
        report.write("shared_loo", "az.loo against exact leave-one-out", leave_one_out(), settings)
    elif name == "eight_schools":
        draws = {"NUTS": f"{SAMPLES} draws after {WARM_UP}", "draws of guides": "500, resampled ones of 1000"}
        report.write("shared_eight_schools", "Eight schools", eight_schools(), settings | draws)
    elif name == "predictive":
        nested = {
            "draws of theta": THETAS,
            "of each row": ROW_SAMPLES,
            "repetitions": REPETITIONS,
            "rows": 60,
        }
        report.write(
            "shared_predictive", "Predictive densities of held-out rows", coverage(), settings | nested
        )
    elif name == "conjugate":
        report.write("shared_conjugate", "Latents above the rows against closed forms", conjugate(), settings)
    else:
        raise SystemExit(f"no table {name!r}: there are {', '.join(TABLES)}.")


TABLES = ("loo", "eight_schools", "predictive", "conjugate")

if __name__ == "__main__":
    for table in sys.argv[1:] or TABLES:
        tables(table)
