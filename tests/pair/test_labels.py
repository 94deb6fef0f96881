"""Labels that some rows lack, by obs_mask=: what a hand-written guide looks like, and what its figures are."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.pair.label_advice import labels_explained
from pyrovae.training.batch_loss import batch_loss

NAN = float("nan")
SHARES, MEANS, NOISE = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-2.0, 0.0, 2.0]), 0.5


def model(x, y, added=False):
    with pyro.plate("rows", len(x)):
        if added:
            pyro.factor("added", 0.25 * x.new_ones(len(x)), has_rsample=False)
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        label = pyro.sample("y", dist.Categorical(SHARES), obs=y, obs_mask=~y.isnan())
        pyro.sample("x", dist.Normal(z + MEANS[label.long()], NOISE), obs=x)


def blind(x, y):
    """q(z|x): the model enumerates the label, and the guide does not see it."""
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 1.0))


class Seeing(nn.Module):
    """q(y|x) q(z|x,y) with the exact q(z|x,y): the guide has the label, masked where it is known."""

    def __init__(self, masked=True, added=False):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.4, 0.0, -0.4]))
        self.masked, self.added = masked, added

    def forward(self, x, y):
        known = ~y.isnan()
        with pyro.plate("rows", len(x)):
            with poutine.mask(mask=~known if self.masked else True):
                drawn = pyro.sample("y_unobserved", dist.Categorical(logits=self.logits.expand(len(x), 3)))
            if self.added:
                pyro.factor("added", 0.25 * x.new_ones(len(x)), has_rsample=False)
            label = torch.where(known, y.nan_to_num().long(), drawn)
            precision = 1 + NOISE**-2
            pyro.sample("z", dist.Normal((x - MEANS[label]) * NOISE**-2 / precision, precision**-0.5))


def rows(N=40):
    x, y = torch.randn(N, generator=torch.Generator().manual_seed(0)), (torch.arange(N) % 3).float()
    return x, torch.where(torch.arange(N) % 2 == 0, NAN, y)


def joint(x):
    """log p(x, y), [N,3]."""
    return SHARES.log() + dist.Normal(MEANS, (1 + NOISE**2) ** 0.5).log_prob(x[:, None])


def truth(x, y):
    known = joint(x).gather(1, y.nan_to_num().long()[:, None])[:, 0]
    return torch.where(y.isnan(), joint(x).logsumexp(1), known)


PAIRS = {
    "the model enumerates": lambda: pv.VAE(config_enumerate(model), blind),
    "derived": lambda: pv.VAE(config_enumerate(model)),
    "the guide draws": lambda: pv.VAE(model, Seeing()),
    "the guide enumerates": lambda: pv.VAE(model, config_enumerate(Seeing())),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_evidence_is_right_whoever_has_the_label(pair):
    torch.manual_seed(0)
    x, y = rows()
    defensive = pv.ImportanceSampling(prior_share=0.5)
    result = pv.log_marginal(PAIRS[pair](), x, y, num_samples=4000, method=defensive, seed=0)
    assert bool(((result.log_marginal - truth(x, y)).abs() < 5 * result.std_error + 1e-4).all())
    assert float(result.std_error.median()) < 0.05


def test_the_loss_of_a_guide_that_enumerates_is_exact():
    """Its z is exact given the label, so that sum_y q(y) log p(x,y)/q(y) has no noise; known rows have log p(x,y)."""
    x, y = rows()
    guide = Seeing()
    vae = pv.VAE(model, config_enumerate(guide))
    vae.rows(x, y)
    loss = batch_loss(vae, None)
    with vae.scope():
        statistics, _ = loss.statistics_and_gradients(Batch((x, y), True), list(vae.parameters()), 1.0)
    log_q = guide.logits.detach().log_softmax(0)
    unknown = (log_q.exp() * (joint(x) - log_q)).sum(1)
    torch.testing.assert_close(-statistics[0], torch.where(y.isnan(), unknown, truth(x, y)).sum())


@pytest.mark.parametrize("enumerates", [False, True])
@pytest.mark.parametrize("part", ["known", "unknown", "both"])
def test_a_guide_that_draws_known_labels_too_is_refused(enumerates, part):
    """Each row with a label would have log 3 too much, or what the guide's entropy is."""
    x, y = rows()
    y = {"known": (torch.arange(len(x)) % 3).float(), "unknown": torch.full_like(y, NAN), "both": y}[part]
    guide = Seeing(masked=False)
    vae = pv.VAE(model, config_enumerate(guide) if enumerates else guide)
    with pytest.raises(
        ValueError, match=r"draws 'y_unobserved' also in rows whose 'y' is observed.*poutine.mask"
    ):
        pv.log_marginal(vae, x, y, num_samples=5)
    pv.log_marginal(pv.VAE(model, Seeing()), x, y, num_samples=5)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_factor_beside_absent_labels_stays_one(where):
    """Of the model it belongs to the density, of the guide to the loss."""
    x, y = rows()
    added = pv.VAE(functools.partial(model, added=where == "model"), Seeing(added=where == "guide"))
    found = pv.log_marginal(added, x, y, num_samples=50, seed=0).log_marginal
    without = pv.log_marginal(pv.VAE(model, Seeing()), x, y, num_samples=50, seed=0).log_marginal
    torch.testing.assert_close(found, without + (0.25 if where == "model" else 0.0))


def read_elsewhere(x, y):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        label = pyro.sample("y", dist.Categorical(SHARES), obs=y)
        pyro.sample("x", dist.Normal(z + MEANS[label.long()], NOISE), obs=x)


def a_chain(x, y):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        first = pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        pyro.sample("x", dist.Normal(first, 1.0), obs=x)


def prior(x, y):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


@pytest.mark.parametrize("program", [read_elsewhere, a_chain])
def test_an_absent_value_that_others_depend_on_is_not_filled_in_silently(program):
    x, y = rows()
    with pytest.raises(
        ValueError, match=r"site 'x' depends on the value of 'y', which some rows lack.*obs_mask="
    ):
        pv.log_marginal(pv.VAE(program, prior), x, y, num_samples=5)
    vae = pv.VAE(program, prior)
    pv.log_marginal(vae, x, y.nan_to_num(), num_samples=5)
    with pytest.raises(ValueError, match="depends on the value of 'y'"):
        pv.fit(vae, (x, y), epochs=1, progress=False)
    assert bool(pv.elbo(vae, torch.where(x > 1, NAN, x), y.nan_to_num()).elbo.isfinite().all())


class LooksUp(nn.Module):
    """q(z|x,y) by hand, with the label as a one-hot vector or by an embedding."""

    def __init__(self, how):
        super().__init__()
        self.how, self.embed = how, nn.Embedding(3, 3)

    def forward(self, x, y):
        if self.how == "one-hot":
            shown = nn.functional.one_hot(y.long(), 3).to(x.dtype) @ self.embed.weight
        else:
            shown = self.embed(y.long())
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x + shown.sum(-1), 1.0))


def with_labels_as_context(x, y):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def indexed_by_labels(x, y):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z + MEANS[y.long()], NOISE), obs=x)


LAST = {
    "beyond": (7.0, r"Labels go from 0 to K - 1.*context 1 goes from 0 to 7"),
    "absent": (NAN, r"context 1 lack labels \(NaN\).*y.nan_to_num\(\).long\(\).*obs_mask="),
}


@pytest.mark.parametrize("label, message", LAST.values(), ids=LAST)
@pytest.mark.parametrize(
    "program, guide",
    [
        (with_labels_as_context, lambda: LooksUp("one-hot")),
        (with_labels_as_context, lambda: LooksUp("embedding")),
        (indexed_by_labels, lambda: blind),
    ],
)
def test_labels_that_only_later_rows_have_and_no_program_can_look_up(program, guide, label, message):
    """The contract looks at the first rows; of later ones the error has the same advice, wherever they come up."""
    x, y = torch.linspace(-1, 1, 40), (torch.arange(40) % 3).float()
    y[-1] = label
    as_is = [
        lambda: pv.elbo(pv.VAE(program, guide()), x, y),
        lambda: pv.VAE(program, guide()).encode(x, y),
        lambda: pv.fit(pv.VAE(program, guide()), loader(x, y), epochs=1, progress=False),
    ]
    for ask in as_is if guide() is not blind else as_is[:1]:
        with pytest.raises(ValueError, match=f"(?s)failed on.*{message}"):
            ask()


def loader(x, y):
    return DataLoader(TensorDataset(x, y), batch_size=20)


def test_an_index_that_is_no_label_is_not_explained_by_labels():
    y = torch.tensor([0.0, 2.0])
    with (
        pytest.raises(IndexError, match=r"^index 3 is out of bounds"),
        labels_explained("guide", Batch((y, y))),
    ):
        MEANS[torch.tensor([3])]
