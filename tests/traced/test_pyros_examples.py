"""Models in the manner of Pyro's examples/vae/ss_vae_M2.py and examples/scanvi: a label observed or not, by call.

Programs as they stand there: `obs=ys` with None where there are no labels, guides that enumerate by `config_enumerate`
with `expand=True`, networks that look at shapes, batch normalization, `poutine.scale`, a factor in the guide.
"""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.util import broadcast_shape
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softmax, softplus

import pyrovae as pv
from tests.traced.test_enumeration import assert_traced_as_plain

LABELS, GENES, N = 3, 12, 300


def broadcast(inputs):
    shape = (*broadcast_shape(*[i.shape[:-1] for i in inputs]), -1)
    return torch.cat([i.expand(shape) for i in inputs], -1)


class Joined(nn.Module):
    """As the example's multi-layer perceptron: of one tensor, or of a list that is joined."""

    def __init__(self, size, hidden, *outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.Softplus())
        self.outputs = nn.ModuleList(nn.Sequential(nn.Linear(hidden, out), last) for out, last in outputs)

    def forward(self, inputs):
        hidden = self.body(inputs if torch.is_tensor(inputs) else broadcast(inputs))
        found = [output(hidden) for output in self.outputs]
        return found[0] if len(found) == 1 else found


class Exp(nn.Module):
    def forward(self, value):
        return value.exp()


class SSVAE(nn.Module):
    def __init__(self, output_size=LABELS, input_size=GENES, z_dim=2, hidden=16):
        super().__init__()
        self.output_size, self.input_size, self.z_dim = output_size, input_size, z_dim
        self.encoder_y = Joined(input_size, hidden, (output_size, nn.Softmax(-1)))
        both = (z_dim, nn.Identity()), (z_dim, Exp())
        self.encoder_z = Joined(input_size + output_size, hidden, *both)
        self.decoder = Joined(z_dim + output_size, hidden, (input_size, nn.Sigmoid()))

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        options = {"dtype": xs.dtype, "device": xs.device}
        with pyro.plate("data"):
            prior_loc = torch.zeros(batch_size, self.z_dim, **options)
            prior_scale = torch.ones(batch_size, self.z_dim, **options)
            zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
            alpha_prior = torch.ones(batch_size, self.output_size, **options) / (1.0 * self.output_size)
            ys = pyro.sample("y", dist.OneHotCategorical(alpha_prior), obs=ys)
            loc = self.decoder([zs, ys])
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                alpha = self.encoder_y(xs)
                ys = pyro.sample("y", dist.OneHotCategorical(alpha))
            loc, scale = self.encoder_z([xs, ys])
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    @staticmethod
    def data():
        """Bits of three classes that are told apart easily."""
        torch.manual_seed(0)
        y = torch.arange(N) % LABELS
        mean = torch.full((LABELS, GENES), 0.1)
        for k in range(LABELS):
            mean[k, 4 * k : 4 * k + 4] = 0.9
        return torch.bernoulli(mean[y]), torch.eye(LABELS)[y]


def make_fc(dims):
    layers = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def split_in_half(t):
    return t.reshape((*t.shape[:-1], 2, -1)).unbind(-2)


def of_rows(network, inputs):
    """Batch normalization wants two dimensions."""
    flat = network(inputs.reshape(-1, inputs.size(-1)))
    return flat.reshape(inputs.shape[:-1] + flat.shape[-1:])


class SCANVI(nn.Module):
    def __init__(self, latent=2, alpha=0.01):
        super().__init__()
        self.latent_dim, self.alpha, self.epsilon = latent, alpha, 5.0e-3
        self.scale_factor, self.l_loc, self.l_scale = 1.0 / (50 * GENES), 4.0, 0.3
        self.z2_decoder = make_fc([latent + LABELS, 16, 2 * latent])
        self.x_decoder = make_fc([latent, 16, 2 * GENES])
        self.z2l_encoder = make_fc([GENES, 16, 2 * latent + 2])
        self.classifier = make_fc([latent, 16, LABELS])
        self.z1_encoder = make_fc([LABELS + latent, 16, 2 * latent])

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(GENES), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(self.latent_dim)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(LABELS)), obs=y)
            z2_loc, z2_scale = split_in_half(of_rows(self.z2_decoder, broadcast([z1, y])))
            z2 = pyro.sample("z2", dist.Normal(z2_loc, softplus(z2_scale)).to_event(1))
            size = pyro.sample("l", dist.LogNormal(self.l_loc, self.l_scale * x.new_ones(1)).to_event(1))
            gate_logits, mu = split_in_half(of_rows(self.x_decoder, z2))
            mu = softmax(mu, dim=-1)
            nb_logits = (size * mu + self.epsilon).log() - (theta + self.epsilon).log()
            counts = dist.ZeroInflatedNegativeBinomial(
                gate_logits=gate_logits, total_count=theta, logits=nb_logits
            )
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            h1, h2 = split_in_half(self.z2l_encoder((1 + x).log()))
            z2_loc, z2_scale, l_loc, l_scale = h1[..., :-1], h2[..., :-1], h1[..., -1:], h2[..., -1:]
            pyro.sample("l", dist.LogNormal(l_loc, softplus(l_scale)).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z2_loc, softplus(z2_scale)).to_event(1))
            y_dist = dist.OneHotCategorical(logits=of_rows(self.classifier, z2))
            if y is None:
                y = pyro.sample("y", y_dist)
            else:
                classification_loss = y_dist.log_prob(y)
                pyro.factor("classification_loss", -self.alpha * classification_loss, has_rsample=False)
            z1_loc, z1_scale = split_in_half(of_rows(self.z1_encoder, broadcast([z2, y])))
            pyro.sample("z1", dist.Normal(z1_loc, softplus(z1_scale)).to_event(1))

    @staticmethod
    def data():
        """Counts of three kinds of cells."""
        _, y = SSVAE.data()
        rates = torch.ones(LABELS, GENES)
        for k in range(LABELS):
            rates[k, 4 * k : 4 * k + 4] = 12.0
        return torch.poisson(rates[y.argmax(-1)]), y


EXAMPLES = {"ss_vae_M2": SSVAE, "scanvi": SCANVI}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("objective", [None, TraceEnum_ELBO])
def test_labelled_and_unlabelled_rows_through_everything(name, objective):
    torch.manual_seed(0)
    example = EXAMPLES[name]()
    x, y = example.data()
    unlabelled = pv.VAE(example.model, config_enumerate(example.guide, "parallel", expand=True))
    labelled = pv.VAE(example.model, example.guide)
    made = None if objective is None else objective(max_plate_nesting=1, strict_enumeration_warning=False)
    given = {"epochs": 12, "batch_size": 50, "seed": 0, "progress": False, "objective": made}
    for vae, data in ((labelled, (x, y)), (unlabelled, (x,)), (labelled, (x, y))):
        history = pv.fit(vae, data, **given, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
        assert history.attrs["engine"] == "traced"
        assert bool(history[["loss", "elbo", "rate"]].notna().all(axis=None))

    # log p(x) is the sum over labels, whichever way it is had; Bayes' rule gives their probabilities.
    few = slice(0, 30)
    alone = pv.log_marginal(unlabelled, x[few], num_samples=2000, seed=0)
    given_label = [
        pv.log_marginal(labelled, x[few], torch.eye(LABELS)[k].expand(30, -1), num_samples=2000, seed=0)
        for k in range(LABELS)
    ]
    joint = torch.stack([result.log_marginal for result in given_label], -1)
    error = alone.std_error + torch.stack([result.std_error for result in given_label]).max(0).values
    assert bool(((alone.log_marginal - joint.logsumexp(-1)).abs() < 5 * error + 0.02).float().mean() > 0.9)
    probabilities = joint.softmax(-1)
    assert float((probabilities.argmax(-1) == y[few].argmax(-1)).float().mean()) > 0.9
    draws = unlabelled.sample_posterior(x[few], num_samples=50, seed=0)["y"]
    assert draws.shape == (50, 30, LABELS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_their_steps_are_those_of_pyro(name):
    def make(with_labels):
        torch.manual_seed(0)
        example = EXAMPLES[name]()
        x, y = (values[:20] for values in example.data())
        guide = example.guide if with_labels else config_enumerate(example.guide, "parallel", expand=True)
        return pv.VAE(example.model, guide), (x, y) if with_labels else (x,)

    for with_labels in (True, False):
        assert_traced_as_plain(lambda labels=with_labels: make(labels), lambda: None, drawn_once=False)
