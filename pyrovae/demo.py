"""The main job on real data: a VAE declared in Pyro, trained, checked and shown.

Data: scikit-learn's bundled digits, 8x8 images with 17 grey levels, binarized at half intensity, so that
every figure is a log probability of the same 64 bits and the models can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pyrovae import guides, models, nn, plots
from pyrovae.criticism.calibration import Calibration, calibrate
from pyrovae.criticism.diagnosis import diagnose
from pyrovae.evidence.bound import elbo
from pyrovae.evidence.marginal import log_marginal
from pyrovae.evidence.psis import good_k
from pyrovae.evidence.results import LogMarginal
from pyrovae.exchange.arviz_bridge import to_arviz
from pyrovae.exchange.cluster import cluster
from pyrovae.exchange.probe import probe
from pyrovae.files import write_atomically
from pyrovae.plots.interactive.need import need_bokeh
from pyrovae.random_state import fixed_seed
from pyrovae.training.fitting import fit
from pyrovae.vae import VAE

LATENT_SIZE = 8
HIDDEN = 256
EPOCHS = 150
NUM_SAMPLES = 1000
# Columns of the table beside those of the ELBO and log p(x).
MC_ERROR, LOW_BY, GOOD = "Monte Carlo error", "errs low by at least", f"Pareto k < {good_k(NUM_SAMPLES):.2f}"


def run(out: Path, *, epochs: int = EPOCHS, seed: int = 0) -> pd.DataFrame:
    """Train, evaluate and show; writes the report, history and digits.nc into `out`; returns the table."""
    started = time.perf_counter()
    need_bokeh("report.html")
    out.mkdir(parents=True, exist_ok=True)
    train, valid, test, labels = digits()
    _print_job(train, valid, test)
    with fixed_seed(seed, torch.device("cpu")):
        vae = build()
        history = fit(
            vae,
            train,
            epochs=epochs,
            batch_size=64,
            validation=valid,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
        )
        table, marginal = evaluate(vae, {"train": train, "test": test}, seed)
        diagnosis = diagnose(vae, test, num_samples=NUM_SAMPLES, seed=seed)
        calibration = calibrate(vae, seed=seed)
        page = plots.report(
            vae,
            test,
            history=history,
            image_shape=(8, 8),
            labels=labels,
            diagnosis=diagnosis,
            calibration=calibration,
            seed=seed,
        )
        tree = to_arviz(vae, test[:100], num_samples=100, dims={"x": ["pixel"], "z": ["latent"]})
    _print_table(table, baselines(train, valid, test), marginal.log_marginal.numpy())
    print(
        f"\nThe diagnosis and the report take {NUM_SAMPLES} draws of their own: their figures differ by chance."
    )
    print(diagnosis)
    _print_calibration(calibration)
    print(f"\nRepresentation: {probe(vae, test, labels=labels)}")
    print(f"                {cluster(vae, test, num_clusters=10, truth=labels)}")

    write_atomically(out / "history.csv", lambda path: history.to_csv(path, index=False))
    page.save(out / "report.png")
    page.save(out / "report.html")
    write_atomically(out / "digits.nc", lambda path: tree.to_netcdf(str(path)))
    vae.save(out / "vae.safetensors")
    _print_posterior(out / "digits.nc", labels[0])
    print(f"\nWrote {out}/: report.html, report.png, history.csv, digits.nc (for ArviZ), vae.safetensors")
    print(f"Took {time.perf_counter() - started:.0f} seconds")
    return table


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    """Training, validation and test rows [N, 64] of zeros and ones, and the test rows' digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    x = torch.as_tensor(data.data[order] > 8, dtype=torch.get_default_dtype())
    return x[:1200], x[1200:1400], x[1400:], data.target[order][1400:]


def build() -> VAE:
    """p(z) p(x|z) and q(z|x)."""
    model = models.LatentVariableModel(
        prior=models.StandardNormal(LATENT_SIZE),
        likelihood=models.Bernoulli(nn.MLP(LATENT_SIZE, 64, hidden=[HIDDEN])),
    )
    posterior = guides.DiagonalNormal(nn.MLP(64, (LATENT_SIZE, LATENT_SIZE), hidden=[HIDDEN]))
    return VAE(model, guides.AmortizedGuide(posterior))


def evaluate(vae: VAE, data: dict[str, torch.Tensor], seed: int) -> tuple[pd.DataFrame, LogMarginal]:
    """Mean nats per row of each set of rows, with errors; and `log_marginal` of the last set."""
    table = []
    for name, x in data.items():
        bound = elbo(vae, x, num_samples=100, seed=seed)
        marginal = log_marginal(vae, x, num_samples=NUM_SAMPLES, seed=seed)
        table.append(
            {
                "rows": f"VAE, {name}",
                "ELBO": float(bound.elbo.mean()),
                "reconstruction": float(bound.reconstruction.mean()),
                "rate": float(bound.rate.mean()),
                "log p(x)": marginal.total[0] / len(x),
                MC_ERROR: marginal.total[1] / len(x),
                LOW_BY: -marginal.total_bias / len(x),
                GOOD: marginal.share_good,
            }
        )
    return pd.DataFrame(table).set_index("rows"), marginal


def baselines(train: torch.Tensor, valid: torch.Tensor, test: torch.Tensor) -> dict[str, np.ndarray]:
    """Exact log p(x) of each test row under simpler models fitted to the training rows.

    Independent pixels, and a mixture of such by EM with the number of components and the smoothing chosen on
    the validation rows.
    """
    x, chosen, held_out = (rows.numpy() for rows in (train, valid, test))
    single = _bernoulli_mixture(x, 1, 0.5)
    mixtures = [(k, a, _bernoulli_mixture(x, k, a)) for k in (10, 20, 40, 80) for a in (0.2, 0.5)]
    k, _, best = max(mixtures, key=lambda mixture: mixture[2](chosen).mean())
    return {"independent pixels": single(held_out), f"mixture of {k} of them": best(held_out)}


def _bernoulli_mixture(
    x: np.ndarray, num_components: int, smoothing: float
) -> Callable[[np.ndarray], np.ndarray]:
    """EM with scikit-learn's BernoulliNB as the M step; returns a function from rows to log p(x)."""
    from scipy.special import logsumexp
    from sklearn.naive_bayes import BernoulliNB

    repeated = np.repeat(x, num_components, axis=0)
    component = np.tile(np.arange(num_components), len(x))
    responsibilities = np.random.default_rng(0).dirichlet(np.ones(num_components), len(x))
    for _ in range(40):
        mixture = BernoulliNB(alpha=smoothing)
        mixture.fit(repeated, component, sample_weight=responsibilities.ravel() + 1e-12)
        joint = mixture.predict_joint_log_proba(x)
        responsibilities = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    return lambda rows: logsumexp(mixture.predict_joint_log_proba(rows), axis=1)


def _print_job(train: torch.Tensor, valid: torch.Tensor, test: torch.Tensor) -> None:
    print(
        f"Data   scikit-learn's digits, 8x8 pixels binarized at half intensity: {len(train)} rows to train on, "
        f"{len(valid)} to validate, {len(test)} to test"
    )
    print(
        f"Model  p(z) = Normal(0, I) in {LATENT_SIZE} dimensions, p(x|z) Bernoulli; guide q(z|x) diagonal Normal; "
        f"one hidden layer of {HIDDEN} each"
    )


def _print_table(table: pd.DataFrame, exact: dict[str, np.ndarray], by_row: np.ndarray) -> None:
    means = {f"{name}, test": values.mean() for name, values in exact.items()}
    both = pd.concat([table, pd.DataFrame({"log p(x)": means})])
    shown = both.map(lambda v: "" if pd.isna(v) else f"{v:.2f}")
    shown[MC_ERROR] = ["exact" if pd.isna(v) else f"{v:.3f}" for v in both[MC_ERROR]]
    shown[LOW_BY] = ["" if pd.isna(v) else f"{v:.3f}" for v in both[LOW_BY]]
    shown[GOOD] = ["" if pd.isna(v) else f"{v:.0%}" for v in both[GOOD]]
    print(f"\nNats per row, higher is better; log p(x) by importance sampling, {NUM_SAMPLES} samples a row")
    print(shown.to_string())
    print(
        f"Both errors are those of {NUM_SAMPLES} samples for these very rows, not of other rows. Where Pareto k is "
        f"{good_k(NUM_SAMPLES):.2f} or\nabove they say too little: log p(x) of such rows is more likely too low than "
        "too high."
    )
    name, best = max(exact.items(), key=lambda item: item[1].mean())
    gain = by_row - best
    print(
        f"\nThe VAE gives a test row {gain.mean():+.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f} nats against the "
        f"{name} (± over test rows, paired)."
    )


def _print_calibration(calibration: Calibration) -> None:
    guide, corrected = (
        "passed" if ok else "failed" for ok in (calibration.passed, calibration.corrected_passed)
    )
    print(f"\nCalibration: the guide's own draws {guide}, weighted by importance they {corrected}")


def _print_posterior(path: Path, label: int) -> None:
    import arviz

    first = arviz.from_netcdf(str(path)).posterior["z"].isel(row=0)
    summary = arviz.summary(first.to_dataset(name="z"), kind="stats")
    print(f"\nArviZ reads {path.name}; posterior of the first test row, a {label}:")
    print(summary.to_string())
