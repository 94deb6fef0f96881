"""Properties of every prior, likelihood and model of the table, and of every pair of prior and likelihood."""

from __future__ import annotations

import copy
import itertools
import zlib

import pyro
import pyro.distributions.transforms as transforms
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import guides, models
from pyrovae.data import Batch
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import LatentVariableModel
from pyrovae.nn import positive
from pyrovae.pair.absence import integrated_out
from pyrovae.pair.running import run_guide, run_model
from tests.components import LIKELIHOODS, MODELS, PRIORS, D, K, net

ROWS = 6


def likelihood_at(name, dtype=torch.float32, rows=ROWS):
    """A likelihood, z, its context, and rows of data, seeded by name."""
    torch.manual_seed(zlib.crc32(name.encode()))
    entry = LIKELIHOODS[name]
    part = entry.make(K).to(dtype)
    x = entry.data(rows).to(dtype)
    return part, torch.randn(rows, K, dtype=dtype), entry.context(x), x


def prior_at(name, dtype=torch.float32, rows=ROWS):
    """A prior, moved away from its start, and its context, seeded by name."""
    torch.manual_seed(zlib.crc32(name.encode()))
    entry = PRIORS[name]
    part = entry.make(1).to(dtype)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part, (torch.randn(rows, 1, dtype=dtype),) if entry.conditional else ()


def assert_every_gradient(part, log_prob):
    log_prob.sum().backward()
    for name, parameter in part.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name


# Priors


@pytest.mark.parametrize("name", PRIORS)
def test_prior_gradient_reaches_every_parameter(name):
    part, context = prior_at(name)
    z = torch.randn(ROWS, K, requires_grad=True)
    assert_every_gradient(part, part(*context).expand([ROWS]).log_prob(z))
    assert bool((z.grad != 0).all())


@pytest.mark.parametrize("name", PRIORS)
def test_prior_shapes(name):
    part, context = prior_at(name)
    p = part(*context)
    assert p.event_shape == (K,)
    for batch in ([ROWS], [5, ROWS], [5, 1, ROWS]):
        wide = p.expand(batch)
        z = wide.sample()
        assert z.shape == (*batch, K)
        assert wide.log_prob(z).shape == tuple(batch)


@pytest.mark.parametrize("name", PRIORS)
def test_unconditional_prior_takes_any_context(name):
    part, context = prior_at(name)
    if not context:
        z = torch.randn(ROWS, K)
        context = (torch.randn(ROWS, 4), torch.ones(ROWS, dtype=torch.long))
        torch.testing.assert_close(part(*context).log_prob(z), part().log_prob(z), rtol=0, atol=0)


def on_grid(p, draws, steps=1000):
    """Points of a grid [G, K] well around draws, the log density there, and the area of a cell."""
    middle, reach = draws.mean(0), (draws - draws.mean(0)).abs().amax(0)
    unit = (torch.arange(steps, dtype=draws.dtype) + 0.5) / steps * 2 - 1
    grid = middle + 1.3 * reach * torch.cartesian_prod(unit, unit)
    log_prob = torch.cat([p.log_prob(chunk) for chunk in grid.split(100_000)])
    return grid.double(), log_prob.double(), float((2.6 * reach / steps).prod())


@pytest.mark.parametrize("name", PRIORS)
def test_prior_normalizes_and_draws_agree_with_it(name):
    # Pyro's autoregressive transforms invert in the default dtype alone.
    dtype = torch.float32 if "autoregressive" in name else torch.float64
    part, context = prior_at(name, dtype, rows=1)
    with torch.no_grad():
        p = part(*context)
        draws = p.expand([20_000]).sample()
        grid, log_prob, cell = on_grid(p, draws)
        draws = draws.double()
        weights = log_prob.exp() * cell
        # A spline's density has kinks, at which the midpoint rule errs by the square of the cell's width.
        assert abs(float(weights.sum()) - 1) < (2e-3 if "spline" in name else 1e-4)
        for statistic in (lambda z: z, lambda z: z**2, lambda z: z.prod(-1, keepdim=True), torch.cos):
            f = statistic(grid)
            exact = (weights[:, None] * f).sum(0)
            error = ((weights[:, None] * (f - exact) ** 2).sum(0) / len(draws)).sqrt()
            assert bool(((statistic(draws).mean(0) - exact).abs() < 4.5 * error + 1e-3).all())


@pytest.mark.parametrize("name", ["spline_flow", "affine_flow"])
def test_flow_density_is_the_change_of_variables(name):
    part, _ = prior_at(name, torch.float64)

    def push(e):
        for transform in part().transforms:
            e = transform(e)
        return e

    for e in torch.randn(20, K, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(push, e)
        exact = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum() - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(part().log_prob(push(e)), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["spline_flow", "affine_flow"])
@pytest.mark.parametrize("at", [0.0, 5.0, -5.0, 100.0, -1e4])
def test_flow_gradients_are_finite_far_out_and_at_the_bounds(name, at):
    part, _ = prior_at(name)
    z = torch.full((ROWS, K), at, requires_grad=True)
    log_prob = part().log_prob(z)
    log_prob.sum().backward()
    assert bool(log_prob.isfinite().all())
    for tensor in (z, *part.parameters()):
        assert bool(tensor.grad.isfinite().all())


@pytest.mark.parametrize("name", [n for n in PRIORS if "flow" in n.lower()])
def test_flow_keeps_nothing_between_calls(name):
    part, _ = prior_at(name)
    z = part().sample([3])
    before = part().log_prob(z)
    before.sum().backward()
    copied = copy.deepcopy(part)  # a kept graph would refuse
    torch.testing.assert_close(copied().log_prob(z), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1)
    assert bool((part().log_prob(z) != before).all())
    assert bool((copied().log_prob(z) == before).all())


@pytest.mark.parametrize("name", ["spline_flow", "affine_flow"])
def test_flow_runs_each_network_once_to_draw(name):
    part = {"spline_flow": models.spline_flow, "affine_flow": models.affine_flow}[name](32, num_layers=3)
    calls = []
    for module in part.modules():
        if type(module).__name__ == "DenseNN":
            module.register_forward_hook(lambda *_: calls.append(1))
    part().sample([5])
    assert len(calls) == 3
    calls.clear()
    part().log_prob(torch.randn(5, 32))
    assert len(calls) == 3


def test_a_flow_of_nothing_has_no_context_to_give():
    layer = transforms.conditional_planar(K, context_dim=3)
    with pytest.raises(
        TypeError, match="ConditionalPlanar is no transform by itself, and this flow has no network"
    ):
        models.FlowPrior(K, [layer])


def test_one_flow_is_prior_and_posterior():
    """The same layers: with a network they are moved and scaled by what it gives."""
    prior = models.affine_flow(K, num_layers=2)
    posterior = guides.Flow(net(D, (K, K, 1)), K, 1, prior.transforms)
    x, e = torch.randn(ROWS, D), torch.randn(ROWS, K)
    location, raw, _ = posterior.network(x)
    for transform in prior().transforms:
        e = transform(e)
    q = posterior(x)
    expected = prior().log_prob(e) - positive(raw).log().sum(-1)
    torch.testing.assert_close(q.log_prob(location + positive(raw) * e), expected)


# Likelihoods


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_gradient_reaches_every_parameter(name):
    part, z, context, x = likelihood_at(name)
    z.requires_grad_()
    assert_every_gradient(part, part(z, *context).log_prob(x))
    assert bool((z.grad != 0).any(1).all())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_shapes(name):
    part, z, context, x = likelihood_at(name)
    wide = torch.randn(5, ROWS, K)
    for latents in (z, wide, wide[:, None]):
        p = part(latents, *context)
        assert p.event_shape == (D,)
        assert p.batch_shape == latents.shape[:-1]
        assert p.sample().shape == (*latents.shape[:-1], D)
        assert p.expand([2, *p.batch_shape]).sample().shape == (2, *latents.shape[:-1], D)
        assert p.log_prob(x).shape == latents.shape[:-1]
        if LIKELIHOODS[name].has_mean:
            assert p.mean.shape == (*latents.shape[:-1], D)
    one_by_one = torch.stack([part(some, *context).log_prob(x) for some in wide])
    torch.testing.assert_close(part(wide, *context).log_prob(x), one_by_one)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_of_a_row_does_not_depend_on_other_rows(name):
    part, z, context, x = likelihood_at(name)
    together = part(z, *context).log_prob(x)
    for row in range(ROWS):
        some = slice(row, row + 1)
        alone = part(z[some], *(c[some] for c in context)).log_prob(x[some])
        torch.testing.assert_close(alone, together[some], rtol=1e-5, atol=1e-5)


def points_of(name, p, x):
    """Rows that differ in entry 0 alone, over all of its values, and each one's weight: [P, D], [P]."""
    values = LIKELIHOODS[name].values
    if values is not None:
        values, weights = values.to(x), torch.ones(len(values), dtype=x.dtype)
    elif name.startswith(("ContinuousBernoulli", "TruncatedNormal")):
        low, high = (getattr(base_of(p).support, end) for end in ("lower_bound", "upper_bound"))
        low, high = (torch.as_tensor(end, dtype=x.dtype).expand(1, D)[0, 0] for end in (low, high))
        values = low + (high - low) * (torch.arange(20_000, dtype=x.dtype) + 0.5) / 20_000
        weights = torch.full_like(values, (high - low) / 20_000)
    elif name.startswith("LogNormal"):  # the real line of logarithms
        entry = p.base_dist.base_dist
        reach = torch.linspace(-12, 12, 20_000, dtype=x.dtype)
        values = (entry.loc[0, 0] + entry.scale[0, 0] * reach).exp()
        weights = values * entry.scale[0, 0] * (reach[1] - reach[0])
    else:  # the real line, by tan
        angle = ((torch.arange(200_000, dtype=x.dtype) + 0.5) / 200_000 - 0.5) * torch.pi
        values = p.mean[0, 0] + torch.tan(angle)
        weights = torch.pi / 200_000 * (1 + torch.tan(angle) ** 2)
    rows = x[:1].expand(len(values), D).clone()
    rows[:, 0] = values
    return rows, weights


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if not n.startswith("Multinomial")])
def test_likelihood_normalizes_and_draws_agree_with_it(name):
    part, z, context, x = likelihood_at(name, torch.float64, rows=1)
    with torch.no_grad():
        p = part(z, *context)
        entries = p.base_dist  # one entry of the row: the others are independent of it
        rows, weights = points_of(name, p, x)
        probabilities = weights * entries.log_prob(rows)[:, 0].exp()
        assert abs(float(probabilities.sum()) - 1) < 1e-6
        torch.testing.assert_close(p.log_prob(rows), entries.log_prob(rows).sum(-1))
        draws = p.sample([20_000])[:, 0, 0]
        values = rows[:, 0]
        mean = (probabilities * values).sum()
        if LIKELIHOODS[name].has_mean:
            torch.testing.assert_close(p.mean[0, 0], mean, rtol=1e-5, atol=1e-5)
        spread = (probabilities * (values - mean) ** 2).sum().sqrt()
        for statistic in (
            lambda v: torch.tanh((v - mean) / spread),
            lambda v: ((v - mean) / spread).abs().sqrt(),
        ):
            exact = (probabilities * statistic(values)).sum()
            error = ((probabilities * (statistic(values) - exact) ** 2).sum() / len(draws)).sqrt()
            assert abs(float(statistic(draws).mean() - exact)) < 4.5 * float(error)


@pytest.mark.parametrize("total", [0, 1, 5, 9])
def test_multinomial_normalizes_over_the_counts_of_each_total(total):
    torch.manual_seed(total)
    part = models.Multinomial(net(K, D)).double()
    z = torch.randn(1, K, dtype=torch.float64)
    rows = [r for r in itertools.product(range(total + 1), repeat=D) if sum(r) == total]
    rows = torch.tensor(rows, dtype=torch.float64)
    with torch.no_grad():
        p = part(z, torch.full((1, 1), float(total), dtype=torch.float64))
        probabilities = p.log_prob(rows).exp()
        torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))
        exact = (probabilities[:, None] * rows).sum(0)
        torch.testing.assert_close(p.mean[0], exact)
        variance = (probabilities[:, None] * (rows - exact) ** 2).sum(0)
        torch.testing.assert_close(p.variance[0], variance)
        draws = p.sample([10_000])[:, 0]
        assert bool((draws.sum(-1) == total).all())
        assert bool(((draws.mean(0) - exact).abs() <= 4.5 * (variance / len(draws)).sqrt()).all())


class Extreme(nn.Module):
    """A network that gives one value everywhere, of the shapes of another network."""

    def __init__(self, network, values):
        super().__init__()
        self.network, self.values = network, values

    def forward(self, *inputs):
        outputs = self.network(*inputs)
        if isinstance(outputs, torch.Tensor):
            return torch.full_like(outputs, self.values[0])
        return tuple(torch.full_like(o, v) for o, v in zip(outputs, self.values, strict=False))


EXTREMES = [-1e30, -1e4, 0.0, 1e4, 1e30]


def base_of(p):
    while hasattr(p, "base_dist"):
        p = p.base_dist
    return p


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_extreme_outputs_keep_parameters_finite_and_positive_and_the_density_finite(name):
    part, z, context, x = likelihood_at(name)
    network = part.network
    outputs = 1 if network.heads.single else len(network.heads)
    # The square of 1e30 is beyond float32: a location so far off has a density of 0, rightly.
    squares = name.startswith(("Normal", "StudentT"))
    for values in itertools.product(EXTREMES, repeat=outputs):
        part.network = Extreme(network, values)
        p = part(z, *context)
        base = base_of(p)
        for parameter in ("scale", "rate", "dispersion", "_mean", "df", "total_count"):
            held = getattr(base, parameter, None)
            if isinstance(held, torch.Tensor):
                assert bool(held.isfinite().all()), (parameter, values)
                assert bool((held > 0).all()) or parameter == "total_count", (parameter, values)
        if not (squares and abs(values[0]) == 1e30):
            assert bool(p.log_prob(x).isfinite().all()), values
        if LIKELIHOODS[name].has_mean:
            assert bool(p.mean.isfinite().all()), values


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if LIKELIHOODS[n].bad()])
def test_bad_data_are_named_with_their_row(name):
    torch.manual_seed(0)
    entry = LIKELIHOODS[name]
    x = entry.data(ROWS)
    context = entry.context(x)
    for bad in entry.bad():
        wrong = x.clone()
        wrong[4, 1] = bad
        guide = AmortizedGuide(DiagonalNormal(net(D + sum(c.shape[1] for c in context), (K, K))))
        vae = pv.VAE(LatentVariableModel(models.StandardNormal(K), entry.make(K)), guide)
        with pytest.raises(ValueError, match=r"row 4 of the data lies outside the support of site 'x'"):
            pv.elbo(vae, wrong, *context)


# Models, and all pairs


@pytest.mark.parametrize("name", MODELS)
def test_model_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    model, guide = MODELS[name].make()
    data = MODELS[name].data(12)
    enumerates = bool(pv.VAE(model, guide, example=data).layout.enumerated)
    objective = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1) if enumerates else pyro.infer.Trace_ELBO()
    with integrated_out(Batch.of(data)):
        loss = objective.differentiable_loss(model, guide, *data)
    assert_every_gradient(nn.ModuleList([model, guide]), loss)


@pytest.mark.parametrize("name", MODELS)
def test_model_rows_do_not_depend_on_each_other(name):
    torch.manual_seed(0)
    vae = pv.VAE(*MODELS[name].make())
    data = MODELS[name].data(12)
    with vae.evaluating():
        vae.rows(*data)
        latents = {n: s.value for n, s in run_guide(vae, Batch.of(data), 3).items()}
        together = run_model(vae, Batch.of(data), latents, 3)
        for row in (0, 7):
            some = tuple(a[row : row + 1] for a in data)
            alone = run_model(vae, Batch.of(some), {n: v[:, row : row + 1] for n, v in latents.items()}, 3)
            for site in together:
                torch.testing.assert_close(
                    alone[site].log_prob, together[site].log_prob[:, row : row + 1], rtol=1e-5, atol=1e-5
                )


def check_lives(make, data, path):
    """ELBO, one epoch, save and load: finite, changed, and equal."""
    vae = pv.VAE(*make())
    before = pv.elbo(vae, *data, num_samples=2, seed=0).elbo
    assert bool(before.isfinite().all())
    history = pv.fit(vae, data, epochs=1, batch_size=4, seed=0, progress=False)
    assert bool(torch.tensor(history.elbo.values).isfinite().all())
    after = pv.elbo(vae, *data, num_samples=2, seed=0).elbo
    assert bool((after != before).all())
    vae.save(path)
    loaded = pv.VAE(*make()).load(path)
    torch.testing.assert_close(pv.elbo(loaded, *data, num_samples=2, seed=0).elbo, after, rtol=0, atol=0)
    assert vae.layout.model_broadcasts
    assert vae.layout.guide_broadcasts
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize("name", MODELS)
def test_model_trains_and_is_saved(name, tmp_path):
    torch.manual_seed(0)
    check_lives(MODELS[name].make, MODELS[name].data(12), tmp_path / "vae.safetensors")


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_prior_goes_with_every_likelihood(prior, likelihood, tmp_path):
    torch.manual_seed(0)
    p, l = PRIORS[prior], LIKELIHOODS[likelihood]  # noqa: E741
    x = l.data(8)
    context = l.context(x)
    labels = p.conditional and not context
    if labels:
        context = (torch.randn(len(x), 1),)
    size = sum(c.shape[1] for c in context)

    def make():
        part = l.make(K + 1 if labels else K)
        guide = AmortizedGuide(DiagonalNormal(net(D + size, (K, K))))
        return LatentVariableModel(p.make(size), part), guide

    check_lives(make, (x, *context), tmp_path / "vae.safetensors")
