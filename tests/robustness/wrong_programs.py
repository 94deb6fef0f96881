"""Wrong programs: pairs that break the contract, from a table of small mistakes, each with words of its message.

A pair is a good one with one statement of it replaced. `models` and `guides` hold the replaced programs.
"""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

state = {}
X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def rows(x, **kwargs):
    return pyro.plate("rows", len(x), **kwargs)


def prior(size=2):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def spread(z, size=3):
    """The sum of a latent as the mean of `size` columns."""
    return z.sum(-1, keepdim=True).expand(*z.shape[:-1], size)


def observe(mean, x, **kwargs):
    return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x, **kwargs)


def model(x):
    with rows(x):
        observe(spread(pyro.sample("z", prior())), x)


def guide(x):
    with rows(x):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def model_with(latent=prior, mean=spread, likelihood=None, name="z"):
    """The good model with another prior, mean or likelihood."""

    def changed(x):
        with rows(x):
            z = pyro.sample(name, latent())
            if likelihood is None:
                observe(mean(z), x)
            else:
                pyro.sample("x", likelihood(spread(z)), obs=x)

    return changed


def guide_with(latent, name="z"):
    """The good guide with another distribution, from x."""

    def changed(x):
        with rows(x):
            pyro.sample(name, latent(x))

    return changed


# Plates


def latent_outside_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    with rows(x):
        observe(spread(z), x)


def observation_outside_plate(x):
    with rows(x):
        z = pyro.sample("z", prior())
    pyro.sample("x", dist.Normal(spread(z), 1.0).to_event(2), obs=x)


def no_plate_at_all(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(spread(z), 1.0).to_event(2), obs=x)


def sequential_plate(x):
    for i in pyro.plate("rows", len(x)):
        z = pyro.sample(f"z_{i}", prior())
        pyro.sample(f"x_{i}", dist.Normal(spread(z), 1.0).to_event(1), obs=x[i])


def second_plate(x):
    with rows(x):
        z = pyro.sample("z", prior())
    with pyro.plate("again", len(x)):
        observe(spread(z), x)


def nested_plate(x):
    with rows(x), pyro.plate("rows too", len(x), dim=-2):
        observe(spread(pyro.sample("z", prior())), x)


def same_plate_twice(x):
    with rows(x), pyro.plate("rows", len(x)):
        observe(spread(pyro.sample("z", prior())), x)


def plate_of_fixed_size(x):
    with pyro.plate("rows", 20):
        z = pyro.sample("z", prior())
        observe(spread(z)[: len(x)], x)


def plate_of_one_less(x):
    with pyro.plate("rows", len(x) - 1):
        z = pyro.sample("z", prior())
        observe(spread(z), x[1:])


def plate_over_columns(x):
    with pyro.plate("columns", 3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plate_at_dim_2(x):
    with rows(x, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def subsampled_columns(x):
    with rows(x):
        z = pyro.sample("z", prior())
        with pyro.plate("columns", 3, subsample_size=2, dim=-2) as index:
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.T[index])


def subsampled_rows(x):
    with rows(x, subsample_size=3) as index:
        observe(spread(pyro.sample("z", prior())), x[index])


# Sites


def nothing_observed(x):
    with rows(x):
        pyro.sample("z", prior())


def no_latents(x):
    with rows(x):
        observe(torch.zeros(3), x)


def observed_forgotten(x):
    with rows(x):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(spread(z), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def same_name_twice(x):
    with rows(x):
        z = pyro.sample("z", prior()) + pyro.sample("z", prior())
        observe(spread(z), x)


def one_name_for_both(x):
    with rows(x):
        z = pyro.sample("z", prior())
        pyro.sample("z", dist.Normal(spread(z), 1.0).to_event(1), obs=x)


def sites_that_change(x):
    state["calls"] = state.get("calls", 0) + 1
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z), x)
        if state["calls"] % 2:
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def sites_by_rows(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z), x)
        if len(x) % 2:
            pyro.sample("w", dist.Normal(z.sum(-1), 1.0))


def returns_in_the_middle(x):
    with rows(x):
        pyro.sample("z", prior())
        return
        observe(torch.zeros(3), x)


# Rows that lean on each other


def centred_latents(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z - z.mean(-2, keepdim=True)), x)


def sorted_latents(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z.sort(-2).values), x)


def running_sum(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z.cumsum(-2)), x)


def shuffled(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z.roll(1, -2)), x)


def scaled_by_the_batch(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z) / len(x), x)


def softmax_over_rows(x):
    with rows(x):
        z = pyro.sample("z", prior())
        observe(spread(z).softmax(0), x)


def batch_norm_by_hand(x):
    with rows(x):
        pyro.sample("z", dist.Normal(((x - x.mean(0)) / x.std(0))[:, :2], 1.0).to_event(1))


def scale_of_all_rows(x):
    with rows(x):
        pyro.sample("z", dist.Normal(x[:, :2], x.std()).to_event(1))


def always_batch_norm(x):
    with rows(x):
        pyro.sample(
            "z", dist.Normal(nn.functional.batch_norm(x, None, None, training=True)[:, :2], 1.0).to_event(1)
        )


# State, noise, side effects


def counting(x):
    state["times"] = state.get("times", 0) + 1
    with rows(x):
        observe(spread(pyro.sample("z", prior())) + state["times"], x)


def noise_of(draw):
    def model(x):
        with rows(x):
            observe(spread(pyro.sample("z", prior())) + draw(x), x)

    return model


def guide_noise_of(draw):
    return guide_with(lambda x: dist.Normal(x[:, :2] + draw(x), 1.0).to_event(1))


# Contexts


def with_keyword_only(x, *, temperature):
    model(x)


def with_more(x, y):
    model(x)


def with_none(x):
    pass


def raising(error):
    def program(x):
        raise error

    return program


def guide_that_observes(x):
    with rows(x):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1), obs=x[:, :2])


def guide_that_observes_x(x):
    guide(x)
    with rows(x):
        observe(x, x)


def guide_of_more(x):
    guide(x)
    with pyro.plate("others", len(x)):
        pyro.sample("w", dist.Normal(x[:, 0], 1.0))


def guide_without_plate(x):
    pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(2))


def guide_of_other_plate_size(x):
    with pyro.plate("rows", 20):
        pyro.sample("z", prior())


def guide_of_a_table(x):
    table = pyro.param("table", torch.zeros(20, 2))
    with pyro.plate("rows", 20, subsample_size=len(x)) as index:
        pyro.sample("z", dist.Normal(table[index], 1.0).to_event(1))


def guide_of_a_fixed_table(x):
    with rows(x):
        pyro.sample("z", dist.Normal(torch.zeros(20, 2), 1.0).to_event(1))


def guide_of_wrong_mask(x):
    with rows(x), poutine.mask(mask=torch.ones(3, dtype=torch.bool)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def wrong_mask(x):
    with rows(x), poutine.mask(mask=torch.ones(3, dtype=torch.bool)):
        observe(spread(pyro.sample("z", prior())), x)


def mask_of_numbers(x):
    with rows(x), poutine.mask(mask=torch.ones(len(x))):
        observe(spread(pyro.sample("z", prior())), x)


def obs_mask(x):
    with rows(x):
        observe(spread(pyro.sample("z", prior())), x, obs_mask=x[:, 0] > 0)


def column(x):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
        observe(z.expand(-1, 3), x)


def single(x):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
        observe(z.expand(*z.shape[:-1], 3), x)


def vector_of_one(x):
    with rows(x):
        observe(spread(pyro.sample("z", prior(1))), x)


linear64 = nn.Linear(3, 2).double()

GAMMA = lambda: dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1)  # noqa: E731
BETA = lambda: dist.Beta(torch.full((2,), 2.0), 2.0).to_event(1)  # noqa: E731
COINS = lambda: dist.Bernoulli(torch.full((2,), 0.5)).to_event(1)  # noqa: E731
SHARES = lambda: dist.Dirichlet(torch.ones(2))  # noqa: E731
LABEL = lambda: dist.Categorical(torch.ones(3))  # noqa: E731
NORMAL = guide_with(lambda x: dist.Normal(x[:, :2] + 5, 1.0).to_event(1))

NO = None  # a guide that is derived

PROGRAMS = {
    # plates
    "latent outside": (latent_outside_plate, guide, "'z' of the model stands outside a row plate"),
    "observation outside": (observation_outside_plate, guide, "'x' of the model stands outside a row plate"),
    "no plate": (no_plate_at_all, guide, "outside a row plate"),
    "rows one by one": (sequential_plate, NO, "plate"),
    "second plate": (second_plate, guide, "second batch plate"),
    "nested plate": (nested_plate, guide, "second batch plate"),
    "same plate twice": (same_plate_twice, guide, "collide|plate"),
    "plate of fixed size": (plate_of_fixed_size, guide, "20 rows|fixed|plate"),
    "plate of one less": (plate_of_one_less, guide, "rows"),
    "plate over columns": (plate_over_columns, NO, "plate|rows"),
    "rows at dim -2": (plate_at_dim_2, NO, "rows go to dim -1"),
    "subsampled columns": (subsampled_columns, guide, "subsampled"),
    "subsampled rows": (subsampled_rows, guide, "rows"),
    "guide without plate": (model, guide_without_plate, "'z' of the guide stands outside a row plate"),
    "guide of other size": (model, guide_of_other_plate_size, "rows"),
    "guide of a table": (model, guide_of_a_table, "which rows of plate"),
    "guide of a fixed table": (model, guide_of_a_fixed_table, "batch|shape|rows"),
    # sites and names
    "nothing observed": (nothing_observed, guide, "observes nothing"),
    "returns in the middle": (returns_in_the_middle, guide, "observes nothing"),
    "no latents": (no_latents, guide, "has no latents"),
    "latents that should be observed": (observed_forgotten, guide, "forgets the latent 'x'"),
    "same name twice": (same_name_twice, guide, "'z'.*name|Multiple"),
    "one name for both": (one_name_for_both, guide, "'z'.*name|Multiple"),
    "sites that change": (sites_that_change, guide, "change from call to call"),
    "sites by rows": (sites_by_rows, NO, "forgets the latent 'w'"),
    "other name": (model, guide_with(lambda x: prior().expand([len(x)]), "latent"), "forgets the latent 'z'"),
    "other name in the model": (model_with(name="latent"), guide, "forgets the latent 'latent'"),
    "forgetful guide": (model, with_none, "forgets the latent 'z'"),
    "guide of more": (model, guide_of_more, "samples 'w', which the model does not know"),
    "guide that observes": (model, guide_that_observes, "guide observes 'z'"),
    "guide that observes x": (model, guide_that_observes_x, "needs a name of its own|guide observes 'x'"),
    "obs_mask": (obs_mask, guide, "obs_mask"),
    # shapes
    "column": (column, NO, r"\.to_event\(1\).*column"),
    "column in the guide": (
        vector_of_one,
        guide_with(lambda x: dist.Normal(x[:, :1], 1.0)),
        r"column, \[7, 1\]",
    ),
    "single number": (single, NO, "a vector, also one of size 1"),
    "number in the guide": (
        vector_of_one,
        guide_with(lambda x: dist.Normal(x[:, 0], 1.0)),
        r"'z' has event shape \(1,\)",
    ),
    "no to_event": (model_with(likelihood=lambda m: dist.Normal(m, 1.0)), guide, r"\.to_event\(1\)"),
    "latent without to_event": (
        model_with(lambda: dist.Normal(torch.zeros(2), 1.0)),
        guide,
        r"\.to_event\(1\)|plate",
    ),
    "to_event of two": (
        model_with(likelihood=lambda m: dist.Normal(m, 1.0).to_event(2)),
        guide,
        "event|plate",
    ),
    "larger latent": (model_with(lambda: prior(4)), guide, r"'z' has event shape \(4,\)"),
    "smaller latent": (model_with(lambda: prior(1)), guide, r"'z' has event shape \(1,\)"),
    "wider data": (model_with(mean=lambda z: spread(z, 4)), guide, r"'x' has event shape \(4,\)"),
    "narrower data": (model_with(mean=lambda z: spread(z, 2)), guide, r"'x' has event shape \(2,\)"),
    "single column": (model_with(mean=lambda z: spread(z, 1)), guide, r"'x' has event shape \(1,\)"),
    "wrong layer": (model_with(mean=nn.Linear(5, 3)), guide, "model failed.*shapes cannot be multiplied"),
    "wrong layer in the guide": (
        model,
        guide_with(lambda x: dist.Normal(nn.Linear(5, 2)(x), 1.0).to_event(1)),
        "guide failed",
    ),
    "transposed": (model_with(mean=lambda z: spread(z).transpose(-1, -2)), guide, "fail|shape|rows"),
    "matrix for a vector": (
        model_with(latent=lambda: dist.Normal(torch.zeros(2, 2), 1.0).to_event(2)),
        guide,
        "does not fit its plates",
    ),
    # supports
    "normal for gamma": (model_with(GAMMA), NORMAL, "'z' from Normal.*Gamma.*LogNormal"),
    "normal for gamma, near": (model_with(GAMMA), guide, "'z' from Normal.*Gamma"),
    "normal for beta": (model_with(BETA), NORMAL, "'z' from Normal.*Beta"),
    "gamma for beta": (
        model_with(BETA),
        guide_with(lambda x: dist.Gamma(x[:, :2].exp(), 9.0).to_event(1)),
        "'z' from Gamma.*Beta",
    ),
    "normal for coins": (model_with(COINS), NORMAL, "'z' from Normal.*Bernoulli.*summed out|density"),
    "normal for shares": (model_with(SHARES), NORMAL, "'z' from Normal.*Dirichlet"),
    "coins for normal": (
        model,
        guide_with(lambda x: dist.Bernoulli(x[:, :2].sigmoid()).to_event(1)),
        "'z'.*Bernoulli.*probabilit|no parameters to train",
    ),
    "label as a vector": (
        model_with(LABEL, mean=lambda z: spread(z.unsqueeze(-1) * 1.0)),
        NORMAL,
        "'z' from Normal.*Categorical.*summed out",
    ),
    "uniform too narrow": (
        model_with(lambda: dist.Uniform(-torch.ones(2), 1.0).to_event(1)),
        NORMAL,
        "'z' from Normal",
    ),
    "data outside": (
        model_with(likelihood=lambda m: dist.Bernoulli(logits=m).to_event(1)),
        guide,
        "outside the support of site 'x'",
    ),
    "counts of numbers": (
        model_with(likelihood=lambda m: dist.Poisson(m.exp()).to_event(1)),
        guide,
        "outside the support of site 'x'",
    ),
    "shares of numbers": (
        model_with(likelihood=lambda m: dist.Dirichlet(m.exp())),
        guide,
        "outside the support of site 'x'",
    ),
    # parameters of distributions
    "negative scale": (
        model_with(likelihood=lambda m: dist.Normal(m, -1.0).to_event(1)),
        guide,
        "model failed.*scale",
    ),
    "scale of zero": (
        model,
        guide_with(lambda x: dist.Normal(x[:, :2], 0.0).to_event(1)),
        "guide failed.*scale",
    ),
    "scale of a raw layer": (
        model,
        guide_with(lambda x: dist.Normal(x[:, :2], x[:, 1:]).to_event(1)),
        "guide failed.*scale",
    ),
    "logits as probabilities": (
        model_with(likelihood=lambda m: dist.Bernoulli(m * 9).to_event(1)),
        guide,
        "model failed.*probs",
    ),
    "no distribution": (model_with(lambda: torch.zeros(2)), guide, "model failed"),
    # dtypes
    "float64 networks": (
        model,
        guide_with(lambda x: dist.Normal(linear64(x), 1.0).to_event(1)),
        "x is torch.float32, and a network, or a tensor that the program makes, torch.float64",
    ),
    # rows that lean on each other
    "centred latents": (centred_latents, guide, "depends on the other rows"),
    "sorted latents": (sorted_latents, guide, "depends on the other rows"),
    "running sum": (running_sum, guide, "depends on the other rows"),
    "rolled rows": (shuffled, guide, "depends on the other rows"),
    "scaled by the batch": (scaled_by_the_batch, guide, "depends on the other rows"),
    "softmax over rows": (softmax_over_rows, guide, "depends on the other rows"),
    "batch norm by hand": (model, batch_norm_by_hand, "depends on the other rows"),
    "scale of all rows": (model, scale_of_all_rows, "depends on the other rows"),
    "batch norm that trains": (model, always_batch_norm, "depends on the other rows"),
    # noise and state
    "counting": (counting, guide, "another each time"),
    "NumPy's noise": (
        noise_of(lambda x: torch.as_tensor(np.random.randn(3), dtype=torch.float32)),
        guide,
        "another each time.*np.random",
    ),
    "Python's noise": (noise_of(lambda x: random.random()), guide, "another each time"),
    "torch's noise": (noise_of(torch.randn_like), guide, "another each time"),
    "dropout as a function": (
        model_with(mean=lambda z: nn.functional.dropout(spread(z) + 1)),
        guide,
        "another each time.*nn.Dropout",
    ),
    "NumPy's noise in the guide": (
        model,
        guide_noise_of(lambda x: float(np.random.randn())),
        "another each time",
    ),
    "Python's noise in the guide": (
        model,
        guide_noise_of(lambda x: random.gauss(0.0, 1.0)),
        "another each time",
    ),
    # masks
    "wrong mask": (wrong_mask, guide, r"'z' of the model has a mask of torch.bool and shape \[3\]"),
    "mask of numbers": (mask_of_numbers, guide, "Expected mask to be a BoolTensor"),
    "wrong mask in the guide": (model, guide_of_wrong_mask, "'z' of the guide has a mask"),
    # signatures and failures
    "keyword only": (with_keyword_only, guide, "keyword"),
    "more arguments": (with_more, guide, "both take"),
    "fewer arguments": (lambda: None, guide, "both take"),
    "guide of more arguments": (model, with_more, "both take"),
    "index error": (
        raising(IndexError("list index out of range")),
        guide,
        "model failed on its first rows: IndexError",
    ),
    "key error": (raising(KeyError("loc")), guide, "model failed on its first rows: KeyError"),
    "not implemented": (
        raising(NotImplementedError()),
        guide,
        "model failed on its first rows: NotImplementedError",
    ),
    "assertion": (model, raising(AssertionError("no")), "guide failed on its first rows: AssertionError"),
    "attribute error": (model, lambda x: x.size_of, "guide failed on its first rows: AttributeError"),
    "zero division": (
        raising(ZeroDivisionError("division by zero")),
        guide,
        "model failed on its first rows",
    ),
}
