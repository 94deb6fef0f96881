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

STEPS, REPETITIONS, THETAS, ROW_SAMPLES = 4000, 60, 50, 4
FEW, WARM_UP, SAMPLES = 1000, 500, 1500
HELD_OUT = 200


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


def held_out(vae: pv.VAE, x: torch.Tensor, exact: torch.Tensor) -> dict[str, Any]:
    """How far predictive densities of rows that nothing was trained on are from the exact ones, on average."""
    found = pv.log_marginal(vae, x, num_samples=200, row_samples=10, seed=0)
    off = float((found.log_marginal - exact.double()).mean())
    return {"held-out rows off (nats per row)": off, "±": found.total[1] / len(x)}


def checked(vae: pv.VAE, *data: torch.Tensor) -> dict[str, Any]:
    """What `shared_check` says of the first number without knowing the posterior."""
    found = pv.shared_check(vae, *data, num_samples=200, row_samples=100, seed=0)
    first = found.table.iloc[0]
    return {
        "shared_check: off (sd)": first["off"],
        "shared_check: scale": first["scale_ratio"],
        "k": found.khat,
        "verdict": found.verdict,
    }


def _rows(seed: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(seed)
    return make()


def train_rows() -> torch.Tensor:
    """Of the normal hierarchy."""
    return _rows(5, lambda: 1.0 + 1.1 * torch.randn(30))


def test_rows() -> torch.Tensor:
    """Of the same, held out."""
    return _rows(6, lambda: 1.0 + 1.1 * torch.randn(HELD_OUT))


def of_hierarchy() -> pd.DataFrame:
    """Posteriors of derived guides in the normal hierarchy, by whether rows read the mean, and by steps."""
    x, new, lines = train_rows(), test_rows(), []
    for steps, reads in ((FEW, False), (FEW, True), (STEPS, False), (STEPS, True)):
        vae = trained(hierarchy, x, steps, reads_shared=reads)
        line = against("mean", vae.sample_shared(4000, seed=0)["mean"], *posterior_of_mean(x))
        total, error = pv.elbo(vae, x, num_samples=200, seed=0).total
        what = f"derived, rows {'read' if reads else 'do not read'} the mean"
        line |= {"evidence - ELBO": evidence(x) - total, "± ": error}
        line |= held_out(vae, new, predictive(x, new)) | checked(vae, x)
        lines.append({"guide": what, "steps": steps, **line})
    exact = pv.VAE(hierarchy, exact_guide(x), example=x)
    total, error = pv.elbo(exact, x, num_samples=200, seed=0).total
    line = against("mean", exact.sample_shared(4000, seed=0)["mean"], *posterior_of_mean(x))
    line |= {"evidence - ELBO": evidence(x) - total, "± ": error}
    line |= held_out(exact, new, predictive(x, new)) | checked(exact, x)
    lines.append({"guide": "exact", **line})
    return pd.DataFrame(lines)


def conjugate() -> pd.DataFrame:
    """Posteriors of derived guides in models whose rows have no latents."""
    return pd.DataFrame([_gamma_poisson(), *_regressions()])


def _gamma_poisson() -> dict[str, Any]:
    x = _rows(5, lambda: torch.poisson(torch.full((25,), 3.3)))
    new = _rows(6, lambda: torch.poisson(torch.full((HELD_OUT,), 3.3)))
    shape, speed = 2.0 + float(x.sum()), 1.0 + len(x)
    vae = trained(counts, x)
    line = against("rate", vae.sample_shared(4000, seed=0)["rate"], shape / speed, shape**0.5 / speed)
    total, error = pv.elbo(vae, x, num_samples=200, seed=0).total
    exact_evidence = float(
        math.lgamma(shape) - math.lgamma(2.0) - shape * math.log(speed) - torch.lgamma(x + 1).double().sum()
    )
    line |= {"evidence - ELBO": exact_evidence - total, "± ": error}
    line |= held_out(vae, new, dist.GammaPoisson(shape, speed).log_prob(new)) | checked(vae, x)
    return {"model": "gamma-Poisson", "steps": STEPS, **line}


def _regressions() -> list[dict[str, Any]]:
    x = _rows(5, lambda: torch.randn(40, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]) + 0.5)
    y = x @ torch.tensor([1.0, -0.5]) + 0.3 + 0.5 * _rows(7, lambda: torch.randn(40))
    mean, covariance = posterior_of_regression(x, y)
    lines = []
    for family in (AutoMultivariateNormal, AutoNormal):
        vae = trained(Regression(), (x, y), shared_family=family)
        drawn = vae.sample_shared(4000, seed=0)
        flat = torch.cat([drawn["linear.weight"][:, 0], drawn["linear.bias"]], 1)
        for place, name in enumerate(("weight 0", "weight 1", "bias")):
            line = against(name, flat[:, place], float(mean[place]), float(covariance[place, place].sqrt()))
            line |= checked(vae, x, y) if place == 0 else {}
            lines.append({"model": f"regression, {family.__name__}", "steps": STEPS, **line})
    return lines


def coverage() -> pd.DataFrame:
    """Predictive densities of held-out rows over repetitions, under exact and other guides."""
    train, test = train_rows(), test_rows()[:60]

    def other(loc: float, scale: float, slope: float, width: float) -> Callable[[torch.Tensor], None]:
        def guide(x: torch.Tensor) -> None:
            pyro.sample("mean", dist.Normal(loc, scale))
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(slope * x, width))

        return guide

    derived = trained(hierarchy, train, reads_shared=True)
    learned = derived.guide.shared.guide.quantiles([0.5, 0.841344746])["mean"]
    exact, wide, halved = exact_guide(train), other(0.7, 0.4, 0.5, 1.0), other(0.9, 0.2, 0.8, 0.22)
    of_guide = pv.ImportanceSampling()
    lines = []
    for name, guide, q, method in (
        ("exact", exact, posterior_of_mean(train), of_guide),
        ("derived, rows read the mean", None, (float(learned[0]), float(learned[1] - learned[0])), of_guide),
        ("rows and theta too wide", wide, (0.7, 0.4), of_guide),
        ("rows halved", halved, (0.9, 0.2), of_guide),
        ('rows halved, method="auto"', halved, (0.9, 0.2), "auto"),
    ):
        vae = derived if guide is None else pv.VAE(hierarchy, guide, example=train)
        under_q = dist.Normal(q[0], math.sqrt(q[1] ** 2 + SPREAD**2 + NOISE**2)).log_prob(test)
        lines.append({"guide": name, **_covered(vae, test, method, under_q.double())})
    return pd.DataFrame(lines)


def _covered(vae: pv.VAE, test: torch.Tensor, method: Any, expected: torch.Tensor) -> dict[str, Any]:
    rows, sums, off, bad, good = [], [], [], [], []
    for seed in range(REPETITIONS):
        found = pv.log_marginal(
            vae, test, num_samples=THETAS, row_samples=ROW_SAMPLES, method=method, seed=seed
        )
        gap = found.log_marginal - expected
        rows.append(float((gap.abs() < 1.96 * found.std_error).double().mean()))
        value, error = found.total
        sums.append(abs(value - float(expected.sum())) < 1.96 * error)
        off.append(float(gap.mean()))
        bad.append(found.share_bad[0])
        good.append(found.verdict == "good")
    return {
        "off on average (nats per row)": np.mean(off),
        "errors of rows cover": np.mean(rows),
        "±": np.std(rows) / math.sqrt(REPETITIONS),
        "errors of sums cover": np.mean(sums),
        "± ": np.std(sums) / math.sqrt(REPETITIONS),
        "rows of bad k": np.mean(bad),
        'verdict "good"': np.mean(good),
    }


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
        "training": f"{STEPS} steps on all rows where none are said, Adam from 0.02 to 6e-5, 2 draws of theta; "
        "rows' encoder of 16 units",
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
    elif name == "hierarchy":
        report.write("shared_hierarchy", "A normal hierarchy against its posterior", of_hierarchy(), settings)
    elif name == "conjugate":
        report.write("shared_conjugate", "Latents above the rows against closed forms", conjugate(), settings)
    else:
        raise SystemExit(f"no table {name!r}: there are {', '.join(TABLES)}.")


TABLES = ("loo", "eight_schools", "predictive", "hierarchy", "conjugate")

if __name__ == "__main__":
    for table in sys.argv[1:] or TABLES:
        tables(table)
