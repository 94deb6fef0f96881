"""Discrete latents summed out where masks leave some of them out, against exact sums."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

import pyrovae as pv

WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
MEANS = torch.tensor([-2.0, 0.0, 3.0])


def no_guide(*arguments):
    pass


@config_enumerate
def partly_labelled(x, label, known):
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(WEIGHTS), obs=label, obs_mask=known)
        pyro.sample("x", dist.Normal(MEANS[k], 1.0), obs=x)


def joint_of_mixture(x):
    """log p(x, k), [N,3]."""
    return WEIGHTS.log() + dist.Normal(MEANS, 1.0).log_prob(x[:, None])


def test_a_known_label_is_scored_and_an_unknown_one_summed_out():
    x, label = torch.tensor([-1.0, 0.5, 2.0, 4.0]), torch.tensor([0, 1, 2, 2])
    known = torch.tensor([True, False, True, False])
    result = pv.log_marginal(pv.VAE(partly_labelled, no_guide), x, label, known, num_samples=2)
    joint = joint_of_mixture(x)
    exact = torch.where(known, joint.gather(1, label[:, None])[:, 0], joint.logsumexp(1))
    torch.testing.assert_close(result.log_marginal.float(), exact)


@pytest.mark.parametrize("inside", [False, True])
def test_a_masked_latent_that_nothing_depends_on_adds_nothing(inside):
    def model(x, counts):
        with pyro.plate("rows", len(x)), poutine.mask(mask=True if inside else counts):
            weights = dist.Categorical(WEIGHTS)
            with poutine.mask(mask=True):
                k = pyro.sample(
                    "k",
                    weights.expand([len(x)]).mask(counts) if inside else weights,
                    infer={"enumerate": "parallel"},
                )
            observed = dist.Normal(MEANS[k], 1.0)
            with poutine.mask(mask=counts):
                pyro.sample("x", observed, obs=x)

    x, counts = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([True, False, True])
    result = pv.log_marginal(pv.VAE(model, no_guide), x, counts, num_samples=2)
    exact = torch.where(counts, joint_of_mixture(x).logsumexp(1), 0.0)
    torch.testing.assert_close(result.log_marginal.float(), exact)


class Hidden(nn.Module):
    """A hidden Markov model of sequences of unequal length, as Pyro's examples have it: steps masked, none left out."""

    def __init__(self, states=4, symbols=5):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.moves = nn.Parameter(torch.randn(states, states, generator=generator))
        self.emissions = nn.Parameter(torch.randn(states, symbols, generator=generator))

    @config_enumerate
    def forward(self, x, lengths):
        state = torch.zeros((), dtype=torch.long)
        with pyro.plate("sequences", len(x)):
            for step in range(x.shape[1]):
                with poutine.mask(mask=step < lengths):
                    state = pyro.sample(f"state_{step}", dist.Categorical(logits=self.moves[state]))
                    pyro.sample(f"x_{step}", dist.Categorical(logits=self.emissions[state]), obs=x[:, step])

    @torch.no_grad()
    def evidence(self, x, lengths):
        """log p(x) by the forward algorithm, row by row, [N]."""
        moves, emissions = self.moves.log_softmax(-1), self.emissions.log_softmax(-1)
        found = []
        for row, length in zip(x, lengths, strict=True):
            forward = moves[0] + emissions[:, row[0]]
            for symbol in row[1:length]:
                forward = (forward[:, None] + moves).logsumexp(0) + emissions[:, symbol]
            found.append(forward.logsumexp(0))
        return torch.stack(found)


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(5, (15, 6), generator=generator)
    return Hidden(), x, torch.randint(1, 7, (15,), generator=generator)


def test_ragged_hidden_markov_models_are_exact(sequences):
    model, x, lengths = sequences
    result = pv.log_marginal(pv.VAE(model, no_guide), x, lengths, num_samples=2)
    exact = model.evidence(x, lengths)
    torch.testing.assert_close(result.log_marginal.float(), exact)
    of_pyro = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, no_guide, x, lengths)
    assert math.isclose(float(result.log_marginal.sum()), of_pyro, rel_tol=1e-5)


@pytest.mark.parametrize("objective", [pv.objectives.ELBO(), None])
def test_loss_and_elbo_of_one_history_agree(sequences, objective):
    model, x, lengths = sequences
    vae = pv.VAE(model, no_guide)
    history = pv.fit(vae, (x, lengths), epochs=2, objective=objective, progress=False, seed=0)
    assert list(-history["elbo"]) == pytest.approx(list(history["loss"]), rel=1e-5)


class Grouped(nn.Module):
    """Two groups, which a row's is of, summed out."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(2) / 2))
            pyro.sample("x", dist.Normal(self.means[k], 1.0), obs=x)

    decorated = config_enumerate(forward)


@pytest.mark.parametrize(
    "program",
    [
        lambda module: module.decorated,
        lambda module: config_enumerate(module),
        lambda module: config_enumerate(module.forward),
        lambda module: config_enumerate(poutine.scale(module, 1.0)),
    ],
)
def test_modules_inside_handlers_are_trained_and_saved(program, tmp_path):
    x = torch.tensor([2.0, -3.0, 2.5])
    module, again = Grouped(), Grouped()
    vae = pv.VAE(program(module), no_guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of modules that are not trained
        pv.fit(vae, x, epochs=2, seed=0, progress=False)
    assert not torch.equal(module.means, again.means)
    vae.save(tmp_path / "vae")
    pv.VAE(program(again), no_guide).load(tmp_path / "vae")
    assert torch.equal(module.means, again.means)


def test_vectors_of_labels_in_an_inner_plate_cannot_be_drawn_and_say_what_to_do():
    @pyro.infer.config_enumerate
    def model(x):
        with pyro.plate("rows", len(x)), pyro.plate("parts", 2, dim=-2):
            k = pyro.sample("k", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(k @ torch.tensor([-1.0, 1.0]), 1.0), obs=x.T)

    vae = pv.VAE(model, lambda x: None, example=torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"'k' \(OneHotCategorical\) stands in an inner plate.*Categorical"):
        vae.sample_posterior(torch.zeros(5, 2))
