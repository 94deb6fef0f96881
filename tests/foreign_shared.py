"""Pairs of latents above the rows in the manner of Pyro's own examples and tutorials, each anew and small.

They join the tables of `tests.foreign_pairs`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide, config_enumerate
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import one_hot, softplus

from tests.foreign_pairs import C, D, K, N, Plain, foreign, net, real, refused, seeded


@foreign("TyXe-BDL/TyXe: weights of all rows beside latents of each")
def bayesian_weights():
    class BNN(Plain):
        def model(self, x):
            pyro.sample("weights", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            super().model(x)

        def guide(self, x):
            pyro.sample("weights", dist.Normal(pyro.param("loc", torch.zeros(D)), 1.0).to_event(1))
            super().guide(x)

    return BNN().pair(real())


@foreign("pyro-ppl/pyro tutorial/bayesian_regression: PyroSample, AutoDiagonalNormal")
def bayesian_regression():
    class BayesianRegression(PyroModule):
        def __init__(self, in_features, out_features):
            super().__init__()
            self.linear = PyroModule[nn.Linear](in_features, out_features)
            self.linear.weight = PyroSample(
                dist.Normal(0.0, 1.0).expand([out_features, in_features]).to_event(2)
            )
            self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([out_features]).to_event(1))

        def forward(self, x, y=None):
            sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
            return mean

    model = BayesianRegression(3, 1)
    return model, autoguide.AutoDiagonalNormal(model), (real(3), real(1)[:, 0])


def schools():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return torch.stack([y, sigma], 1).repeat(2, 1)


@foreign("pyro-ppl/pyro examples/eight_schools, its schools in a plate")
def eight_schools():
    def model(data):
        y, sigma = data[:, 0], data[:, 1]
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfCauchy(scale=25.0))
        with pyro.plate("schools", len(data)):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)

    return model, None, (schools(),)


@refused(
    "pyro-ppl/pyro examples/eight_schools/svi.py: no plate", "'eta' of the model stands outside a row plate"
)
def eight_schools_without_a_plate():
    def model(data):
        eta = pyro.sample("eta", dist.Normal(torch.zeros(len(data)), torch.ones(len(data))).to_event(1))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 10 * torch.ones(1)).to_event(1))
        tau = pyro.sample("tau", dist.HalfCauchy(scale=25 * torch.ones(1)).to_event(1))
        pyro.sample("obs", dist.Normal(mu + tau * eta, data[:, 1]).to_event(1), obs=data[:, 0])

    return model, None, (schools(),)


@foreign("pyro-ppl/pyro examples/baseball.py: partially_pooled_with_logit")
def baseball():
    def model(at_bats, hits):
        num_players = at_bats.shape[0]
        loc = pyro.sample("loc", dist.Normal(-1.0, 1.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("num_players", num_players):
            alpha = pyro.sample("alpha", dist.Normal(loc, scale))
            return pyro.sample("obs", dist.Binomial(at_bats, logits=alpha), obs=hits)

    at_bats = torch.full((N,), 45.0)
    return model, None, (at_bats, torch.binomial(at_bats, torch.full((N,), 0.27), generator=seeded()))


@foreign("pyro-ppl/pyro examples/baseball.py: partially_pooled, a Beta below a Uniform and a Pareto")
def baseball_beta():
    def model(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0, 1))
        kappa = pyro.sample("kappa", dist.Pareto(1, 1.5))
        with pyro.plate("num_players", at_bats.shape[0]):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    at_bats = torch.full((N,), 45.0)
    return model, None, (at_bats, torch.binomial(at_bats, torch.full((N,), 0.27), generator=seeded()))


@foreign("pyro-ppl/pyro examples/lda.py, documents by row; its amortized documents are drawn")
def lda():
    words, vocabulary, topics = 5, 8, C

    def model(data):
        with pyro.plate("topics", topics):
            topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0 / topics, 1.0))
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(vocabulary) / vocabulary))
        with pyro.plate("documents", len(data)):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
            with pyro.plate("words", words):
                word_topics = pyro.sample(
                    "word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"}
                )
                pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data.T)

    predictor = net(vocabulary, topics)

    def guide(data):
        topic_weights_posterior = pyro.param(
            "topic_weights_posterior", lambda: torch.ones(topics), constraint=constraints.positive
        )
        topic_words_posterior = pyro.param(
            "topic_words_posterior",
            lambda: torch.ones(topics, vocabulary),
            constraint=constraints.greater_than(0.5),
        )
        with pyro.plate("topics", topics):
            pyro.sample("topic_weights", dist.Gamma(topic_weights_posterior, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(topic_words_posterior))
        pyro.module("predictor", predictor)
        with pyro.plate("documents", len(data)):
            counts = one_hot(data, vocabulary).sum(-2).float()
            pyro.sample("doc_topics", dist.Dirichlet(softplus(predictor(counts)) + 0.5))

    return model, guide, (torch.randint(vocabulary, (N, words), generator=seeded()),)


@foreign("factor analysis in Pyro, priors on its loadings")
def factor_model():
    def model(x):
        with pyro.plate("factors", K, dim=-2), pyro.plate("columns", D, dim=-1):
            loadings = pyro.sample("loadings", dist.Normal(0.0, 1.0))
        noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=x)

    return model, None, (real(),)


@foreign("pyro-ppl/pyro tutorials: mixed effects, a random intercept and slope of each group")
def mixed_effects():
    def model(y, x, group):
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        spread = pyro.sample("spread", dist.HalfNormal(torch.ones(2)).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        with pyro.plate("groups", 4):
            b = pyro.sample("b", dist.Normal(torch.zeros(2), spread).to_event(1))
        with pyro.plate("observations", len(y)):
            own = (beta + b)[group]
            pyro.sample("y", dist.Normal(own[:, 0] + own[:, 1] * x, sigma), obs=y)

    x = real(1)[:, 0]
    return model, autoguide.AutoMultivariateNormal(model), (x + real(2)[:, 1], x, torch.arange(N) % 4)


@foreign("pyro-ppl/pyro tutorial/gmm: points of all but the assignments")
def gmm():
    @config_enumerate
    def model(data):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)

    shared = poutine.block(model, expose=["weights", "locs", "scale"])
    return model, autoguide.AutoDelta(shared), (real(1)[:, 0],)
