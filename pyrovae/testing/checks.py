"""The checks of a pair that meets the contract, each a function that raises, or says what is worth to be known."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.evidence.bound import elbo
from pyrovae.evidence.marginal import log_marginal
from pyrovae.pair.broadcasting import find_broadcasting
from pyrovae.pair.independence import check_rows_stand_alone
from pyrovae.pair.running import row_terms
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed
from pyrovae.training.batch_loss import batch_loss
from pyrovae.training.steps import TOLERANCE, Gradients, Steps
from pyrovae.vae import VAE

DRAWS = 10
NUM_SAMPLES = 500
# So many standard errors of a mean are taken for noise.
NOISE = 5.0


class SkippedError(Exception):
    """There is nothing to check, for this reason."""


def _rows_independent(vae: VAE, data: Rows) -> str:
    if vae.layout.enumerated:
        raise SkippedError("latents are summed out")
    batch = data.take(slice(None), vae.device)
    if len(batch) < 2:
        raise SkippedError("there is one row")
    with vae.evaluating(), fixed_seed(0, vae.device):
        sites = sites_of(vae.guide, batch)
        latents = {name: sites[name].value for name in vae.layout.latents}
        check_rows_stand_alone(vae.model, vae.guide, batch, latents, sites, vae.layout)
    return ""


def _samples(vae: VAE, data: Rows) -> str:
    with vae.evaluating(), fixed_seed(0, vae.device):
        found = find_broadcasting(vae.model, vae.guide, data.take(slice(None), vae.device), vae.layout)
    repeated = []
    for which in ("guide", "model"):
        under_plate = getattr(vae.layout, f"{which}_broadcasts")
        if under_plate and not getattr(found, f"{which}_broadcasts"):
            raise AssertionError(
                f"many samples of a row under a plate give other numbers than repeated rows in the {which}, on "
                "other rows than the first. Let its operations take leading dimensions, [S, B, ...]."
            )
        repeated += [] if under_plate else [which]
    return f"the {' and the '.join(repeated)} runs on repeated rows, which is slower" if repeated else ""


def _densities_finite(vae: VAE, data: Rows) -> str:
    with vae.evaluating(), fixed_seed(0, vae.device):
        terms = row_terms(vae, data.take(slice(None), vae.device), DRAWS)
    for name in ("log_likelihood", "log_prior", "log_guide"):
        _refuse_rows_not_finite(name.replace("_", " "), getattr(terms, name))
    return ""


def _gradients_finite(vae: VAE, data: Rows) -> str:
    steps = _steps(vae, data, traced=False)
    with fixed_seed(0, vae.device):
        _, gradients = _gradients(steps, vae, data)
    names = {id(parameter): name for name, parameter in vae.named_parameters()}
    named = [(names[id(p)], p, g) for p, g in zip(steps.parameters, gradients, strict=True)]
    if wrong := [name for name, _, g in named if g is not None and not bool(g.isfinite().all())]:
        raise AssertionError(f"gradients of {', '.join(wrong)} are NaN or infinite.")
    if idle := [name for name, p, g in named if g is None and p.requires_grad]:
        raise AssertionError(
            f"{', '.join(idle)} have no gradient: nothing of the loss depends on them. Is the tensor detached, or the "
            "module not used? Freeze what shall not be trained, requires_grad_(False)."
        )
    return ""


def _traced(vae: VAE, data: Rows) -> str:
    traced = _steps(vae, data, traced=True)
    if reason := traced.outcome.plain_because:
        raise SkippedError(reason)
    results = []
    for steps in (
        _steps(vae, data, traced=False),
        traced,
        traced,
    ):  # the first traced call is compared by itself
        with fixed_seed(0, vae.device):
            results.append(_gradients(steps, vae, data))
    if reason := traced.outcome.plain_because:
        raise SkippedError(f"it runs as plain Pyro: {reason}")
    (plain, plain_gradients), _, (found, gradients) = results
    pairs = [(plain, found), *zip(plain_gradients, gradients, strict=True)]
    for a, b in pairs:
        if a is None or b is None:
            assert a is b, "a parameter has a gradient in the one and none in the other."
        elif not torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(a.abs().max()) + 1e-7):
            raise AssertionError(f"they differ by {float((a - b).abs().max()):.3g}.")
    return ""


def _same_seed(vae: VAE, data: Rows) -> str:
    runs: list[list[Tensor]] = []
    trains = any(p.requires_grad for p in vae.parameters())
    for _ in range(2):
        runs.append([_bounds(vae, data), *vae.sample_posterior(data, seed=0).values()])
        if trains:
            with fixed_seed(0, vae.device):
                gradients = _gradients(_steps(vae, data, traced=False), vae, data)[1]
            runs[-1] += [g for g in gradients if g is not None]
    if not all(torch.equal(a, b) for a, b in zip(*runs, strict=True)):
        raise AssertionError(
            "two runs from one seed differ: a program draws numbers that are not torch's, such as NumPy's, or keeps "
            "something between calls."
        )
    return ""


def _save_and_load(vae: VAE, data: Rows) -> str:
    before, own = _bounds(vae, data), vae.tensors()
    kept = {name: tensor.detach().clone() for name, tensor in own.items()}
    if not kept:
        raise SkippedError("the pair has no parameters")
    with tempfile.TemporaryDirectory() as folder, _restored(own, kept):
        path = os.path.join(folder, "pair.safetensors")
        vae.save(path)
        with torch.no_grad():
            for tensor in own.values():
                tensor.zero_()
        vae.load(path)
        after = _bounds(vae, data)
        if not all(torch.equal(tensor, kept[name]) for name, tensor in vae.tensors().items()):
            raise AssertionError("what is loaded is not what was saved.")
    if not torch.equal(before, after):
        raise AssertionError(
            "the loaded VAE gives other numbers: what it computes with is not all in its parameters."
        )
    return ""


def _log_marginal(vae: VAE, data: Rows) -> str:
    if reason := vae.layout.without_density:
        raise SkippedError(reason)
    bound, found = (
        elbo(vae, data, num_samples=NUM_SAMPLES, seed=0),
        log_marginal(vae, data, num_samples=NUM_SAMPLES, seed=1),
    )
    gap = (found.log_marginal - bound.elbo).mean()
    error = (found.std_error.nan_to_num() ** 2 + bound.std_error.nan_to_num() ** 2).sum().sqrt() / len(data)
    if float(gap) < -NOISE * float(error) - 1e-4:
        raise AssertionError(
            f"log p(x) is {-float(gap):.3g} nats per row below the ELBO, which bounds it from below: the guide's "
            "density is not that of its draws, or the model's changes from run to run."
        )
    return f"{float(gap):.3g} nats per row above, estimated by {NUM_SAMPLES} draws"


def _absence(vae: VAE, data: Rows) -> str:
    if not data.absent:
        raise SkippedError("x has no NaN among these rows")
    lacking = torch.stack(
        [
            a.reshape(len(a), -1).isnan().any(1)
            for a in data.take(slice(None), vae.device).arguments
            if isinstance(a, Tensor)
        ]
    ).any(0)
    rows = data[lacking.nonzero()[:, 0].cpu()]
    _densities_finite(vae, rows)
    with fixed_seed(0, vae.device):
        _, gradients = _gradients(_steps(vae, rows, traced=False), vae, rows)
    if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
        raise AssertionError("gradients of rows that lack entries are NaN or infinite.")
    return f"{len(rows)} rows lack entries"


CHECKS: dict[str, Callable[[VAE, Rows], str]] = {
    "rows independent": _rows_independent,
    "samples under a plate equal repeated rows": _samples,
    "densities finite": _densities_finite,
    "gradients finite": _gradients_finite,
    "traced equals plain": _traced,
    "same seed, same numbers": _same_seed,
    "save and load": _save_and_load,
    "log p(x) above the ELBO": _log_marginal,
    "absence": _absence,
}


# Those of a pair as a whole, the latents that its rows share among it.
OF_ALL = (_gradients_finite, _traced)


def _bounds(vae: VAE, data: Rows) -> Tensor:
    """One draw's bound of each row, [N], always the same one; of any guide."""
    with vae.evaluating(), fixed_seed(0, vae.device):
        terms = row_terms(vae, data.take(slice(None), vae.device), 1)
        return terms.log_weights[0]


def _steps(vae: VAE, data: Rows, *, traced: bool) -> Steps:
    """Steps on all these rows; traced ones are not compiled, which takes long."""
    loss = batch_loss(vae, None)
    loss.num_rows = len(data)
    steps = Steps(
        vae,
        loss,
        len(data),
        compile="auto" if traced else False,
        steps=10**9,
        ragged_steps=0,
        rows=len(data),
    )
    if traced and steps.outcome.plain_because is None:
        steps.load_state_dict({**steps.state_dict(), "compiled": False})
    return steps


def _gradients(steps: Steps, vae: VAE, data: Rows) -> tuple[Tensor, Gradients]:
    if not any(p.requires_grad for p in steps.parameters):
        raise SkippedError("the pair has no parameters to train")
    modes = [(module, module.training) for module in vae.modules()]
    vae.eval()  # dropout and batch norms would differ from run to run
    try:
        with torch.enable_grad():
            statistics, gradients = steps(data.take(slice(None), vae.device))
    finally:
        for module, training in modes:
            module.training = training
    return statistics.clone(), [g if g is None else g.clone() for g in gradients]


@contextmanager
def _restored(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> Iterator[None]:
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])


def _refuse_rows_not_finite(what: str, terms: Tensor) -> None:
    wrong = (~terms.isfinite()).any(0).nonzero()[:, 0].tolist()
    if wrong:
        raise AssertionError(
            f"{what} of {len(wrong)} rows is NaN or infinite at draws of the guide, of row {wrong[0]} first."
        )
