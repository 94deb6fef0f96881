"""Path gradients for any guide: against an independent computation, and against what they replace."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import families
from pyrovae.objectives import ELBO, IWAE
from pyrovae.objectives.paths import cut_terms
from pyrovae.random_state import fixed_seed
from tests.objectives.scalar import Scalar

X = torch.tensor([[0.5, -1.2], [2.0, 0.1], [-0.3, 0.4]], dtype=torch.float64)
B = len(X)


def parameter(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


class TwoLevels(nn.Module):
    """z2 in an inner plate of two elements below z1; the guide's z2 depends on its z1, and shares `shared`."""

    def __init__(self):
        super().__init__()
        self.shared, self.w = parameter(0.7), parameter([0.9, -0.4])
        self.a, self.b, self.c, self.l = (
            parameter(0.3),
            parameter([0.5, -0.2]),
            parameter(0.8),
            parameter(-0.3),
        )

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            with pyro.plate("inner", 2, dim=-2):
                z2 = pyro.sample("z2", dist.Normal(self.shared * z1, 0.8))
            # [S, 2, B] to [S, 1, B, 2] where there is a samples plate
            loc = (self.w.unsqueeze(-1) * z2).transpose(-1, -2)
            loc = loc.unsqueeze(-3) if loc.dim() > 2 else loc
            pyro.sample("x", dist.Normal(loc, 0.6).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.a * x.sum(-1), self.l.exp()))
            with pyro.plate("inner", 2, dim=-2):
                loc = self.b.unsqueeze(-1) * x.T + self.c * z1 + self.shared
                pyro.sample("z2", dist.Normal(loc, (0.5 * self.l).exp()))

    def log_terms(self, x, z1, z2, of_guide):
        """log p(x, z) with own parameters and log q with those `of_guide`; z1 [S,1,B], z2 [S,2,B]."""
        normal = torch.distributions.Normal
        log_p = normal(torch.zeros_like(z1), 1.0).log_prob(z1).squeeze(1)
        log_p = log_p + normal(self.shared * z1, 0.8).log_prob(z2).sum(1)
        log_p = log_p + normal(self.w.unsqueeze(-1) * z2, 0.6).log_prob(x.T).sum(1)
        q = of_guide
        log_q = normal(q["a"] * x.sum(-1), q["l"].exp()).log_prob(z1).squeeze(1)
        loc = q["b"].unsqueeze(-1) * x.T + q["c"] * z1 + q["shared"]
        return log_p, log_q + normal(loc, (0.5 * q["l"]).exp()).log_prob(z2).sum(1)

    def draws(self, x, noise1, noise2, parameters):
        q = parameters
        z1 = q["a"] * x.sum(-1) + q["l"].exp() * noise1
        loc = q["b"].unsqueeze(-1) * x.T + q["c"] * z1 + q["shared"]
        return z1, loc + (0.5 * q["l"]).exp() * noise2


def noises(seed, S, broadcasts):
    """[S,1,B] and [S,2,B], drawn as the guide draws: under a samples plate, or on repeated rows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shapes = [(S, 1, B), (S, 2, B)] if broadcasts else [(1, S * B), (2, S * B)]
        drawn = [torch.normal(torch.zeros(s).double(), torch.ones(s).double()) for s in shapes]
    return drawn if broadcasts else [noise.unflatten(1, (S, B)).transpose(0, 1) for noise in drawn]


def independent(pair, S, weigh, broadcasts):
    """The path gradient with q's parameters frozen inside log q, and the model's apart, on the same noise."""
    live = dict(pair.named_parameters())
    frozen = {name: p.detach() for name, p in live.items()}
    noise = noises(4, S, broadcasts)
    # The model's own gradient, at frozen draws.
    z = pair.draws(X, *noise, frozen)
    log_p, log_q = pair.log_terms(X, *z, frozen)
    direct, paths = weigh(log_p - log_q.detach())
    gradients = dict(
        zip(live, torch.autograd.grad(direct.sum(), list(live.values()), allow_unused=True), strict=True)
    )
    # The paths: draws move with live parameters, both densities frozen.
    z = pair.draws(X, *noise, live)
    twin = TwoLevels().requires_grad_(False)
    log_p, log_q = twin.log_terms(X, *z, frozen)
    direct, paths = weigh(log_p - log_q)
    along = torch.autograd.grad(paths.sum(), list(live.values()), allow_unused=True)
    return {
        name: sum(g for g in (gradients[name], path) if g is not None)
        for name, path in zip(live, along, strict=True)
    }


def elbo(log_w):
    return -log_w.mean(0), -log_w.mean(0)


def dreg(log_w):
    v = log_w.detach().softmax(0)
    return -(log_w.logsumexp(0) - math.log(len(log_w))), -(v**2 * log_w).sum(0)


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize(
    "objective, weigh",
    [(ELBO(4, sticking_the_landing=True), elbo), (IWAE(4, doubly_reparameterized=True), dreg)],
)
def test_a_hierarchical_guide_with_an_inner_plate_and_shared_parameters(objective, weigh, broadcasts):
    pair = TwoLevels()
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X)
    vae._layout = replace(vae.layout, guide_broadcasts=broadcasts, model_broadcasts=broadcasts)
    with vae.scope():
        torch.manual_seed(4)
        losses = objective.evaluate(vae, Batch((X,)))
    expected = independent(pair, 4, weigh, broadcasts)
    for name, p in pair.named_parameters():
        (gradient,) = torch.autograd.grad(losses.surrogate.sum(), p, retain_graph=True)
        torch.testing.assert_close(gradient, expected[name], msg=lambda m, n=name: f"{n}: {m}")


class Transformed(nn.Module):
    """An auxiliary normal, and z as a Delta at its image under a learned map: q(z) with log|det| in the Delta."""

    def __init__(self):
        super().__init__()
        self.w, self.a, self.stretch = parameter(1.1), parameter(0.4), parameter(-0.2)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", dist.Normal(self.a * x, 0.9), infer={"is_auxiliary": True})
            pyro.sample(
                "z", dist.Delta(torch.sinh(u) * self.stretch.exp(), -torch.cosh(u).log() - self.stretch)
            )


def mean_gradients(pair, objective, x, repeats, seed=0):
    """Mean and standard error of each parameter's gradient over independent rows, all equal."""
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(x)
    gradients = []
    torch.manual_seed(seed)
    with vae.scope():
        for _ in range(repeats):
            losses = objective.evaluate(vae, Batch((x,)))
            gradients.append(
                torch.stack(torch.autograd.grad(losses.surrogate.mean(), list(pair.parameters())))
            )
    stacked = torch.stack(gradients)
    return stacked.mean(0), stacked.std(0) / math.sqrt(repeats)


def assert_same_mean(a, b):
    """Two-sided at 4.5 standard errors: a false alarm in 150 thousand comparisons."""
    assert bool(((a[0] - b[0]).abs() < 4.5 * (a[1] ** 2 + b[1] ** 2).sqrt() + 1e-9).all()), (a, b)


PATHS = [
    (ELBO(2, analytic_kl=False), ELBO(2, sticking_the_landing=True)),
    (IWAE(4), IWAE(4, doubly_reparameterized=True)),
    (IWAE(3, num_bounds=2), IWAE(3, num_bounds=2, doubly_reparameterized=True)),
]


@pytest.mark.parametrize("plain, paths", PATHS)
@pytest.mark.parametrize("make", [Scalar, Transformed])
def test_unbiased(make, plain, paths):
    """The same mean gradient as the objective's own, and the test sees a wrong one (see the next)."""
    x = torch.full((500,), 1.4, dtype=torch.float64)
    assert_same_mean(mean_gradients(make(), plain, x, 60), mean_gradients(make(), paths, x, 60, seed=1))


def test_a_score_left_out_of_iwae_is_seen_as_biased():
    """Sticking the landing with the weights as they are, which is why IWAE has no such option."""

    class Biased(IWAE):
        def evaluate(self, pair, arguments):
            cut = cut_terms(pair, arguments, self.num_samples)
            value = -self._bound(cut.terms.log_weights)
            direct = -self._bound(cut.without_scores.log_weights)
            return pv.objectives.RowLosses.of(cut.terms, value, direct + cut.along_paths(value))

    x = torch.full((500,), 1.4, dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_same_mean(
            mean_gradients(Scalar(), IWAE(4), x, 60), mean_gradients(Scalar(), Biased(4), x, 60, seed=1)
        )


def spread(pair, objective, x):
    """Standard deviation of each guide parameter's gradient from one row, over rows that are all equal."""
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(x)
    with vae.scope():
        torch.manual_seed(2)
        losses = objective.evaluate(vae, Batch((x,)))
    rows_apart = torch.stack(
        [
            torch.stack(torch.autograd.grad(s, [pair.a, pair.log_scale], retain_graph=True))
            for s in losses.surrogate
        ]
    )
    return rows_apart.std(0)


@pytest.mark.parametrize("plain, paths", PATHS)
def test_the_variance_is_lower_near_the_optimum_and_gone_at_it(plain, paths):
    x = torch.full((150,), 1.4, dtype=torch.float64)
    a, log_scale = Scalar().exact_posterior()
    near = Scalar(a=a * 1.02, log_scale=log_scale + 0.02)
    # Standard deviations over 150 rows are known to 6 %; the ratio is below a tenth.
    assert bool((spread(near, paths, x) < 0.3 * spread(near, plain, x)).all())
    at = Scalar(a=a, log_scale=log_scale)
    assert float(spread(at, paths, x).max()) < 1e-12
    assert float(spread(at, plain, x).min()) > 0.01


class Dropping(Scalar):
    """An encoder with dropout: the density at a draw must be of the very run that drew it."""

    def guide(self, x):
        with self.plate(x):
            slope = nn.functional.dropout(self.a * x, 0.5, self.training)
            pyro.sample("z", dist.Normal(slope, self.log_scale.exp()))


def test_the_guide_runs_once_so_its_own_noise_is_shared():
    pair = Dropping()
    vae = pv.VAE(pair.model, pair.guide)
    x = torch.full((40,), 30.0, dtype=torch.float64)  # far from 0, where another mask would show
    vae.rows(x)
    calls = []
    guide = vae.guide
    vae.guide = lambda x: calls.append(1) or guide(x)
    with vae.scope():
        losses = ELBO(sticking_the_landing=True).evaluate(vae, Batch((x,)))
        assert len(calls) == 1
    # log q of its own draw: -noise^2 / 2 beside the normalizer. Another mask would leave it at -(18 / 0.67)^2 / 2
    # in half of the rows, and log p is at least -(18 + 4)^2 / 2 = -242 wherever it is that low.
    assert bool((losses.rate > -20).all())


class MovingSupport(Scalar):
    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Uniform(self.a * x - 1, self.a * x + 1))


@pytest.mark.parametrize("objective", [ELBO(sticking_the_landing=True), IWAE(2, doubly_reparameterized=True)])
def test_a_support_that_depends_on_parameters_is_refused(objective):
    pair = MovingSupport()
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X[:, 0])
    with vae.scope(), pytest.raises(ValueError, match="'z' on a support that depends on parameters"):
        objective.evaluate(vae, Batch((X[:, 0],)))
    with vae.scope():
        assert ELBO(analytic_kl=False).evaluate(vae, Batch((X[:, 0],))).value.requires_grad


@pytest.mark.parametrize(
    "family, joint",
    [
        (families.diagonal_normal, True),
        (families.inverse_autoregressive_flow, False),
        (families.neural_spline_flow, False),
        (families.mixture_of_normals, False),
    ],
)
def test_derived_guides(family, joint):
    """Flows, whose density at a cut draw takes an inverse, and joint guides, which hand parts on as Deltas."""
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 3, hidden=[4]))
    )
    vae = pv.VAE(model, pv.guides.AutoGuide(model, family=family, joint=joint, hidden=(5,)))
    x = torch.bernoulli(torch.full((1, 3), 0.5)).repeat(400, 1)
    vae.rows(x)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    means = []
    for objective in (ELBO(analytic_kl=False), ELBO(sticking_the_landing=True)):
        torch.manual_seed(0)
        gradients = []
        with vae.scope():
            for _ in range(40):
                losses = objective.evaluate(vae, Batch((x,)))
                found = torch.autograd.grad(losses.surrogate.mean(), parameters, allow_unused=True)
                gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
        stacked = torch.stack(gradients).double()
        means.append((stacked.mean(0), stacked.std(0) / math.sqrt(40)))
    # 39 degrees of freedom and some hundred parameters: at 6 errors, one false alarm in 10 thousand runs.
    (a, error_a), (b, error_b) = means
    assert bool(((a - b).abs() < 6 * (error_a**2 + error_b**2).sqrt() + 1e-6).all())


def test_no_gradients_are_asked_for_without_gradients():
    pair = Scalar()
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X[:, 0])
    with vae.evaluating(), fixed_seed(0, vae.device):
        losses = IWAE(3, doubly_reparameterized=True).evaluate(vae, Batch((X[:, 0],)))
    with vae.evaluating(), fixed_seed(0, vae.device):
        assert torch.equal(losses.value, IWAE(3).evaluate(vae, Batch((X[:, 0],))).value)
