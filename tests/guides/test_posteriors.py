"""What every posterior of a vector latent must be, checked over one table of them."""

import functools
import math
import pickle
import re

import pyro
import pytest
import torch
from pyro.nn import ConditionalAutoRegressiveNN

import pyrovae as pv
from pyrovae import guides
from pyrovae.guides import families
from pyrovae.guides.flows import _Conditioner
from pyrovae.nn import MLP, positive
from tests.components import FAMILIES, POSTERIORS, H, K

D = 4  # numbers of a row


def encoder(sizes):
    return MLP(D, sizes, hidden=[16])


def at_start(name, K=K):
    return POSTERIORS[name].make(encoder, K)


FLOWS = [name for name in POSTERIORS if issubclass(getattr(guides, name), guides.Flow)]


def made(name, *, seed=0, far=0.1, K=K, dtype=torch.float64):
    """A posterior whose parameters are away from their start, so that flows bend."""
    torch.manual_seed(seed)
    posterior = at_start(name, K).to(dtype)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += far * torch.randn_like(parameter)
    return posterior


def assert_same_density(name, a, b):
    tolerance = POSTERIORS[name].tolerance
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


every_posterior = pytest.mark.parametrize("name", POSTERIORS)
every_flow = pytest.mark.parametrize("name", FLOWS)


@every_posterior
@pytest.mark.parametrize("K", [2, 5])
def test_leading_dimensions(name, K):
    posterior = made(name, K=K)
    x = torch.randn(3, 7, D, dtype=torch.float64)
    for inputs in (x[0, 0], x[0], x):
        q = posterior(inputs)
        assert q.batch_shape == inputs.shape[:-1]
        assert q.event_shape == (K,)
        assert q.has_rsample
        z = q.rsample((2,))
        assert z.shape == (2, *inputs.shape[:-1], K)
        assert q.log_prob(z).shape == (2, *inputs.shape[:-1])
    # One value for all rows, and a plate of samples to the left.
    z = torch.randn(K, dtype=torch.float64)
    q = posterior(x[0])
    rowwise = torch.stack([posterior(row).log_prob(z) for row in x[0]])
    assert_same_density(name, q.log_prob(z), rowwise)
    grid = torch.randn(5, 1, K, dtype=torch.float64)
    assert_same_density(name, q.log_prob(grid), q.expand((5, 7)).log_prob(grid.expand(5, 7, K)))
    wide = q.expand((3, 7))
    z = wide.rsample()
    assert z.shape == (3, 7, K)
    assert_same_density(name, wide.log_prob(z), torch.stack([q.log_prob(values) for values in z]))


@every_posterior
def test_rows_do_not_see_each_other(name):
    posterior = made(name)
    x = torch.randn(6, D, dtype=torch.float64)
    z = torch.randn(6, K, dtype=torch.float64)
    changed_x, changed_z = x.clone(), z.clone()
    changed_x[0], changed_z[0] = 3.0, -2.0
    before, after = posterior(x).log_prob(z), posterior(changed_x).log_prob(changed_z)
    torch.testing.assert_close(before[1:], after[1:], rtol=1e-12, atol=1e-12)
    assert not torch.isclose(before[0], after[0])


@every_posterior
def test_takes_context(name):
    posterior = POSTERIORS[name].make(lambda sizes: MLP(D + 3, sizes), K)
    x, context = torch.randn(2, 5, D), torch.randn(5, 3)
    assert posterior(x, context).batch_shape == (2, 5)


@every_posterior
def test_gradients_of_samples_reach_all_parameters(name):
    # At the start, where a flow that were the identity exactly would stop them.
    posterior = at_start(name)
    q = posterior(torch.randn(64, D))
    z = q.rsample((10,))
    ((z**2).sum() + (z[..., 0] * z[..., 1]).sin().sum() + q.log_prob(z).sum()).backward()
    for parameter_name, parameter in posterior.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@every_posterior
def test_density_integrates_to_one_and_is_that_of_the_samples(name):
    posterior = made(name, seed=3)
    q = posterior(torch.randn(D, dtype=torch.float64))
    torch.manual_seed(4)
    z = q.sample((40000,))
    points, cells = [], 1.0
    for values in z.T:
        width = 0.3 * (values.max() - values.min())
        axis = torch.linspace(
            float(values.min() - width), float(values.max() + width), 241, dtype=torch.float64
        )
        points.append(axis)
        cells = cells * (axis[1] - axis[0])
    grid = torch.cartesian_prod(*points)
    mass = q.log_prob(grid).detach().exp() * cells
    assert float(mass.sum()) == pytest.approx(1.0, abs=2e-3)
    # Expectations by quadrature and by sampling: moments, and an asymmetric function.
    for h in (
        lambda z: z[..., 0],
        lambda z: z[..., 1],
        lambda z: z[..., 0] * z[..., 1],
        lambda z: torch.sin(2 * z[..., 0]) + torch.cos(z[..., 0] - 3 * z[..., 1]),
        lambda z: (z[..., 1] > z[..., 0] + 0.1).double(),
    ):
        drawn = h(z)
        error = float(drawn.std()) / math.sqrt(len(z))
        assert abs(float((mass * h(grid)).sum() - drawn.mean())) < 5 * error + 2e-3


@every_posterior
def test_mean_where_there_is_one(name):
    q = made(name)(torch.randn(5, D, dtype=torch.float64))
    if name in FLOWS:
        with pytest.raises(NotImplementedError):
            q.mean  # noqa: B018
        return
    z = q.sample((40000,))
    assert ((q.mean - z.mean(0)).abs() < 5 * z.std(0) / 200).all()


def test_covariances():
    x = torch.randn(7, D)
    K, R = 5, 2
    network = MLP(D, (K, K, K * R))
    location, raw, factor = (output.detach() for output in network(x))
    V = factor.reshape(7, K, R)
    V[:, 0, 1] = 0.0
    V[:, range(R), range(R)] = positive(V[:, range(R), range(R)])
    q = guides.LowRankNormal(network)(x)
    # The factor's bound of 100 scales is hardly felt here.
    expected = V @ V.mT + torch.diag_embed(positive(raw) ** 2)
    torch.testing.assert_close(q.mean, location)
    torch.testing.assert_close(q.covariance_matrix, expected, rtol=1e-2, atol=1e-4)

    network = MLP(D, (3, 3, 3))
    location, raw, below = network(x)
    scale = positive(raw)
    zero = torch.zeros(7)
    rows = [
        [scale[:, 0], zero, zero],
        [below[:, 0], scale[:, 1], zero],
        [below[:, 1], below[:, 2], scale[:, 2]],
    ]
    L = torch.stack([torch.stack(row, -1) for row in rows], -2)
    q = guides.FullNormal(network)(x)
    torch.testing.assert_close(q.mean, location)
    torch.testing.assert_close(q.covariance_matrix, L @ L.mT)


@every_posterior
@pytest.mark.parametrize("extreme", [-1e30, 1e30])
def test_any_finite_output_gives_finite_positive_scales(name, extreme):
    class Extreme(torch.nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.sizes = sizes

        def forward(self, x):
            first, *rest = self.sizes
            context = rest[1:] == [H]
            outputs = [torch.zeros(len(x), first)]
            outputs += [torch.full((len(x), size), extreme) for size in rest]
            if context:
                outputs[-1] = torch.full((len(x), H), math.copysign(1e4, extreme))
            return tuple(outputs)

    q = POSTERIORS[name].make(Extreme, K)(torch.zeros(5, D))
    scale = POSTERIORS[name].scales(q)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert q.sample().isfinite().all()


def count_calls(posterior):
    """A list that grows with each run of a flow layer's network."""
    calls = []
    for module in posterior.modules():
        if isinstance(module, ConditionalAutoRegressiveNN | _Conditioner):
            module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@every_flow
def test_a_fresh_sample_is_scored_without_inversion(name):
    posterior = made(name, K=5)
    calls = count_calls(posterior)
    for q in (posterior(torch.randn(3, D).double()), posterior(torch.randn(3, D).double()).expand((4, 3))):
        calls.clear()
        z = q.rsample()
        assert len(calls) == POSTERIORS[name].layer_networks
        log_q = q.log_prob(z)
        assert len(calls) == POSTERIORS[name].layer_networks
        # Another tensor of the same values is inverted, to the same density.
        assert_same_density(name, log_q, q.log_prob(z.clone()))
        assert len(calls) > POSTERIORS[name].layer_networks


@every_flow
def test_training_and_evaluation_run_each_network_once(name):
    torch.manual_seed(0)
    posterior = at_start(name)
    vae = vae_with(posterior)
    x = torch.randn(10, D)
    pv.elbo(vae, x)
    calls = count_calls(posterior)
    pv.elbo(vae, x, num_samples=3)
    assert len(calls) == POSTERIORS[name].layer_networks
    calls.clear()
    loss = pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with vae.scope():
        loss.loss_and_grads(vae.model, vae.guide, x)
    assert len(calls) == POSTERIORS[name].layer_networks


@every_flow
@pytest.mark.parametrize("K", [2, 3])
def test_density_is_the_change_of_variables(name, K):
    # Forward map and its Jacobian by autograd, against the density of the value by inversion.
    posterior = made(name, K=K, seed=5)
    rows = torch.randn(4, D, dtype=torch.float64)
    for x in rows:
        e = torch.randn(K, dtype=torch.float64)

        def forward(e, x=x):
            for step in posterior(x).transforms:
                e = step(e)
            return e

        jacobian = torch.autograd.functional.jacobian(forward, e)
        expected = torch.distributions.Normal(0, 1).log_prob(e).sum() - torch.linalg.slogdet(jacobian)[1]
        z = forward(e).detach()
        assert_same_density(name, posterior(x).log_prob(z), expected)
        off_diagonal = jacobian - torch.diag(torch.diag(jacobian))
        assert off_diagonal.abs().max() > 1e-3, "the flow does not bend: the test shows nothing"


@every_flow
def test_starts_near_the_diagonal_normal_of_its_encoder(name):
    posterior = at_start(name)
    x = torch.randn(200, D)
    location, raw, _ = posterior.network(x)
    q = posterior(x)
    e = torch.randn(200, K)
    z = e
    for step in q.transforms:
        z = step(z)
    near = (z - (location + positive(raw) * e)) / positive(raw)
    assert float(near.detach().abs().mean()) < 0.2


def inverse_cdf(u, log_weights, loc, scale):
    """One dimension of a mixture, by bisection in float64."""
    low, high = torch.full_like(u, -50.0), torch.full_like(u, 50.0)
    for _ in range(100):
        middle = (low + high) / 2
        cdf = (log_weights.exp() * torch.distributions.Normal(loc, scale).cdf(middle.unsqueeze(-1))).sum(-1)
        low, high = torch.where(cdf < u, middle, low), torch.where(cdf < u, high, middle)
    return (low + high) / 2


@pytest.mark.parametrize("K", [1, 3])
def test_mixture_gradient_is_that_of_the_conditional_quantiles(K):
    # z_d = F^-1(u_d | z_1..z_{d-1}) by bisection, differentiated by central differences.
    C = 2
    start = torch.randn(C * K * 2 + C, dtype=torch.float64) * 0.7

    def parts(parameters):
        loc, raw, logits = parameters.split([C * K, C * K, C])
        return loc.reshape(C, K), (0.5 * raw).exp().reshape(C, K), torch.log_softmax(logits, -1)

    def mixture(parameters):
        loc, scale, logits = parts(parameters)
        normals = pyro.distributions.Normal(loc, scale).to_event(1)
        return guides.mixture.PathwiseMixture(pyro.distributions.Categorical(logits=logits), normals)

    def conditionals(z, parameters):
        """Conditional distribution functions of each dimension."""
        loc, scale, log_weights = parts(parameters)
        us = []
        for d in range(K):
            normal = torch.distributions.Normal(loc[:, d], scale[:, d])
            us.append((torch.softmax(log_weights, -1) * normal.cdf(z[d])).sum())
            log_weights = log_weights + normal.log_prob(z[d])
        return torch.stack(us)

    def quantiles(u, parameters):
        loc, scale, log_weights = parts(parameters)
        z = []
        for d in range(K):
            z.append(inverse_cdf(u[d], torch.log_softmax(log_weights, -1), loc[:, d], scale[:, d]))
            log_weights = log_weights + torch.distributions.Normal(loc[:, d], scale[:, d]).log_prob(z[-1])
        return torch.stack(z)

    direction = torch.randn(K, dtype=torch.float64)
    for seed in range(4):
        torch.manual_seed(seed)
        parameters = start.clone().requires_grad_()
        z = mixture(parameters).rsample()
        (gradient,) = torch.autograd.grad(z @ direction, parameters)
        u = conditionals(z.detach(), start)
        torch.testing.assert_close(quantiles(u, start), z.detach(), rtol=1e-9, atol=1e-9)
        step = 1e-5
        # In one dimension there is no other velocity; in several only the weights' keeps the quantiles.
        for i in range(0 if K == 1 else 2 * C * K, len(start)):
            moved = step * torch.eye(len(start), dtype=torch.float64)[i]
            difference = (quantiles(u, start + moved) - quantiles(u, start - moved)) @ direction / (2 * step)
            torch.testing.assert_close(gradient[i], difference, rtol=1e-5, atol=1e-7)


def test_mixture_gradient_is_unbiased_in_weights_and_unequal_scales():
    loc = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    scale = torch.tensor([[0.5, 0.8], [1.4, 0.4]], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2], dtype=torch.float64)
    parameters = [p.requires_grad_() for p in (loc, scale, logits)]

    weights = torch.softmax(logits, -1)
    moments = loc[:, 0] ** 2 + scale[:, 0] ** 2 + loc[:, 0] * loc[:, 1]
    exact = torch.autograd.grad((weights * moments).sum(), parameters)

    batches = []
    for _ in range(100):
        normals = pyro.distributions.Normal(loc, scale).to_event(1)
        z = guides.mixture.PathwiseMixture(pyro.distributions.Categorical(logits=logits), normals).rsample(
            (2000,)
        )
        batches.append(torch.autograd.grad((z[:, 0] ** 2 + z[:, 0] * z[:, 1]).mean(), parameters))
    for drawn, expected in zip(zip(*batches, strict=True), exact, strict=True):
        drawn = torch.stack(drawn)
        assert ((drawn.mean(0) - expected).abs() < 5 * drawn.std(0) / 10).all()


def vae_with(posterior):
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), pv.models.Normal(MLP(K, D), scale=1.0))
    return pv.VAE(model, pv.guides.AmortizedGuide(posterior))


@every_posterior
def test_save_and_load(name, tmp_path):
    x = torch.randn(20, D)
    torch.manual_seed(1)
    saved = vae_with(at_start(name))
    before = pv.elbo(saved, x, seed=0).elbo
    saved.save(tmp_path / "vae.safetensors")
    torch.manual_seed(2)
    loaded = vae_with(at_start(name))
    assert not torch.allclose(pv.elbo(loaded, x, seed=0).elbo, before)
    loaded.load(tmp_path / "vae.safetensors")
    torch.testing.assert_close(pv.elbo(loaded, x, seed=0).elbo, before, rtol=0, atol=0)


@every_posterior
def test_runs_once_under_a_plate_of_samples(name):
    vae = vae_with(at_start(name))
    pv.elbo(vae, torch.randn(20, D))
    assert vae.layout.guide_broadcasts
    assert vae.encode(torch.randn(20, D)).shape == (20, K)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("K", [2, 5])
def test_a_posterior_states_the_sizes_of_its_head(name, K):
    posterior = FAMILIES[name](D, K, [16])
    assert type(posterior) is getattr(guides, name)
    stated = getattr(guides, name).head_sizes(K)
    assert [head.out_features for head in posterior.network.heads] == list(stated)
    q = posterior(torch.randn(3, D))
    assert q.event_shape == (K,)
    assert q.rsample().isfinite().all()
    # One number more, and what the network gives does not fit.
    posterior.network = MLP(D, (*stated[:-1], stated[-1] + 1))
    with pytest.raises((ValueError, RuntimeError), match="of size|logits|must match"):
        posterior(torch.randn(3, D))


def test_families_are_named_as_their_posteriors():
    aliases = {name: made for name, made in vars(families).items() if isinstance(made, functools.partial)}
    assert len(aliases) == 8
    for name, made in aliases.items():
        (posterior,) = made.args
        assert name == re.sub(r"(?<=[a-z])(?=[A-Z])", "_", posterior.__name__).lower()
        assert pickle.loads(pickle.dumps(made)).args == (posterior,)


def test_a_diagonal_normal_is_a_normal_by_its_own_name():
    posterior = guides.DiagonalNormal(MLP(D, (K, K)))
    assert isinstance(posterior, pv.models.Normal)
    assert posterior.state_dict().keys() == pv.models.Normal(MLP(D, (K, K))).state_dict().keys()


WRONG = {
    "one tensor": (
        lambda: guides.FullNormal(MLP(D, K)),
        TypeError,
        r"FullNormal gave 1 tensor: expected 3, \(location, raw scale, entries below the diagonal\)",
    ),
    "two tensors": (
        lambda: guides.InverseAutoregressiveFlow(MLP(D, (K, K)), K, H),
        TypeError,
        r"InverseAutoregressiveFlow gave 2 tensors: expected 3, \(location, raw scale, context\)",
    ),
    "location alone": (
        lambda: guides.DiagonalNormal(MLP(D, K)),
        TypeError,
        r"network of DiagonalNormal gave 1 tensor: expected 2, \(location, raw scale\)",
    ),
    "isotropic": (
        lambda: guides.IsotropicNormal(MLP(D, (K, K))),
        ValueError,
        "raw scale of size 2: expected 1 ",
    ),
    "raw scale": (
        lambda: guides.FullNormal(MLP(D, (3, 2, 3))),
        ValueError,
        "raw scale of size 2: expected 3 ",
    ),
    "below": (
        lambda: guides.FullNormal(MLP(D, (3, 3, 6))),
        ValueError,
        r"below the diagonal of size 6: expected 3 \(K\*\(K-1\)/2 for K = 3\)",
    ),
    "rank": (
        lambda: guides.LowRankNormal(MLP(D, (3, 3, 4))),
        ValueError,
        r"factor of size 4: expected K\*R for the location's size K = 3 and a rank R from 1 to 3",
    ),
    "components": (
        lambda: guides.MixtureOfNormals(MLP(D, (4, 4, 3))),
        ValueError,
        "locations of size 4 and 3 logits",
    ),
    "mixture scales": (
        lambda: guides.MixtureOfNormals(MLP(D, (6, 3, 3))),
        ValueError,
        "raw scales of size 3: expected 6",
    ),
    "location": (
        lambda: guides.CouplingFlow(MLP(D, (3, 3, H)), 2, H),
        ValueError,
        r"CouplingFlow gave a location of size 3: expected 2 \(latent_size\)",
    ),
    "context": (
        lambda: guides.NeuralSplineFlow(MLP(D, (2, 2, 4)), 2, H),
        ValueError,
        r"NeuralSplineFlow gave a context of size 4: expected 6 \(context_size\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_outputs_that_do_not_fit(case):
    make, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        make()(torch.zeros(5, D))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda n: guides.InverseAutoregressiveFlow(n, 1, H), "latent_size is 1"),
        (lambda n: guides.CouplingFlow(n, 2, 0), "context_size is 0"),
        (lambda n: guides.CouplingFlow(n, 2, H, num_layers=0), "number of layers is 0"),
        (lambda n: guides.InverseAutoregressiveFlow(n, 8, H, hidden=[64, 4]), r"hidden is \[64, 4\]"),
        (lambda n: guides.Flow(n, 2, H, []), "number of layers is 0"),
        (lambda n: guides.NeuralSplineFlow(n, 2, H, num_bins=1), "num_bins is 1"),
        (lambda n: guides.NeuralSplineFlow(n, 2, H, bound=0.0), "bound is 0.0"),
    ],
)
def test_flows_that_cannot_be_built(make, message):
    with pytest.raises(ValueError, match=message):
        make(MLP(D, (2, 2, H)))
