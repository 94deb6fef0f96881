"""What likelihoods take: scales of each kind, options, library sizes and totals; and what they refuse."""

from __future__ import annotations

import pytest
import torch

from pyrovae import models
from pyrovae.nn import MLP, PositiveParameter, Units, positive


@pytest.mark.parametrize(
    "family", [models.Normal, models.Laplace, models.StudentT, models.DiscretizedLogistic]
)
def test_every_family_with_a_scale_takes_it_in_every_way(family):
    torch.manual_seed(0)
    z = torch.randn(4, 2)
    one, two = MLP(2, 3), MLP(2, (3, 3))
    unit = 127.5 if family is models.DiscretizedLogistic else 1.0

    def scale(part):
        return part(z).base_dist.scale.expand(4, 3) / unit

    features = torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(scale(family(one, scale=0.2)), torch.full((4, 3), 0.2))
    torch.testing.assert_close(scale(family(one, scale=PositiveParameter(0.2))), torch.full((4, 3), 0.2))
    torch.testing.assert_close(scale(family(one, scale=PositiveParameter(features))), features.expand(4, 3))
    torch.testing.assert_close(scale(family(two)), positive(two(z)[1]))


def poisson(network, **size):
    return models.Poisson(network, **size)


def negative_binomial(network, **size):
    return models.NegativeBinomial(network, 0.5, **size)


def zero_inflated(network, **size):
    """A gate that is shut, so that the mean is that of the counts."""
    return models.ZeroInflatedNegativeBinomial(lambda z: (torch.full((3,), -60.0), network(z)), 0.5, **size)


COUNTS = [poisson, negative_binomial, zero_inflated]


@pytest.mark.parametrize("make", COUNTS)
def test_an_exposure_multiplies_the_mean(make):
    torch.manual_seed(0)
    z, exposure = torch.randn(5, 4, 2), torch.tensor([[1.0], [2.0], [50.0], [0.1]])
    network = MLP(2, 3)
    plain, scaled = make(network)(z).mean, make(network, exposure=True)(z, exposure).mean
    torch.testing.assert_close(scaled, plain * exposure)


@pytest.mark.parametrize("make", COUNTS)
def test_a_library_size_is_what_the_means_of_a_row_sum_to(make):
    torch.manual_seed(0)
    z, total = torch.randn(5, 4, 2), torch.tensor([[1.0], [2.0], [50.0], [3e4]])
    network = MLP(2, 3)
    mean = make(network, library_size=True)(z, total).mean
    torch.testing.assert_close(mean, total * network(z).softmax(-1))
    torch.testing.assert_close(mean.sum(-1, keepdim=True), total.expand(5, 4, 1))


@pytest.mark.parametrize("make", [models.Poisson, lambda n, **k: models.NegativeBinomial(n, 1.0, **k)])
def test_totals_as_library_sizes_start_at_the_data(make):
    """A network that has learned nothing gives each of D = 500 counts its share, not the whole total."""
    torch.manual_seed(0)
    x = torch.poisson(torch.full((20, 500), 4.0))
    p = make(MLP(2, 500), library_size=True)(torch.randn(20, 2), x.sum(1, keepdim=True))
    assert float(p.mean.detach().mean()) == pytest.approx(float(x.mean()), rel=1e-4)


def test_library_size_of_images_of_counts():
    network = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Unflatten(-1, (3, 2, 2)))
    total = torch.rand(4, 1) + 1
    p = models.Poisson(network, library_size=True)(torch.randn(5, 4, 2), total)
    assert (p.batch_shape, p.event_shape) == ((5, 4), (3, 2, 2))
    torch.testing.assert_close(p.mean.sum((-3, -2, -1)), total.squeeze(1).expand(5, 4))


def test_categorical_reads_the_options_of_a_feature_side_by_side():
    torch.manual_seed(0)
    z, network = torch.randn(4, 2), MLP(2, 6)
    flat = models.Categorical(network, num_options=3)(z).base_dist.logits
    torch.testing.assert_close(flat, network(z).reshape(4, 2, 3).log_softmax(-1))
    shaped = models.Categorical(torch.nn.Sequential(network, torch.nn.Unflatten(-1, (2, 3))))(z)
    assert (shaped.batch_shape, shaped.event_shape) == ((4,), (2,))
    torch.testing.assert_close(shaped.base_dist.logits, flat)


Z, ONE, TWO = torch.zeros(4, 2), MLP(2, 3), MLP(2, (3, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: models.Normal(ONE, scale=0.0), ValueError, r"scale is 0.0: expected a positive"),
        (lambda: models.Laplace(ONE, scale=-1), ValueError, r"scale is -1: expected a positive"),
        (lambda: models.StudentT(ONE, 1.0, df=float("inf")), ValueError, r"df is inf: expected a positive"),
        (lambda: models.NegativeBinomial(ONE, 0.0), ValueError, r"dispersion is 0.0: expected a positive"),
        (lambda: models.Categorical(ONE, 1), ValueError, r"num_options is 1: expected at least 2"),
        (lambda: models.Multinomial(ONE, 0), ValueError, r"total_count is 0: expected at least 1"),
        (
            lambda: models.Normal(ONE)(Z),
            TypeError,
            r"network of Normal gave 1 tensor: expected 2, \(location, raw scale\)",
        ),
        (
            lambda: models.Laplace(TWO, 1.0)(Z),
            TypeError,
            r"Laplace gave 2 tensors: expected 1, \(location\)",
        ),
        (
            lambda: models.Poisson(TWO)(Z),
            TypeError,
            r"Poisson gave 2 tensors: expected 1, \(raw mean\)",
        ),
        (
            lambda: models.NegativeBinomial(ONE)(Z),
            TypeError,
            r"NegativeBinomial gave 1 tensor: expected 2, \(raw mean, raw dispersion\)",
        ),
        (
            lambda: models.ZeroInflatedNegativeBinomial(TWO)(Z),
            TypeError,
            r"gave 2 tensors: expected 3, \(gate logits, raw mean, raw dispersion\)",
        ),
        (lambda: models.Bernoulli(TWO)(Z), TypeError, r"Bernoulli gave 2 tensors: expected 1, \(logits\)"),
        (
            lambda: models.Categorical(ONE, 2)(Z),
            ValueError,
            r"gave 3 logits: expected a multiple of num_options = 2",
        ),
        (
            lambda: models.Poisson(ONE, library_size=True)(Z),
            TypeError,
            r"Poisson got one input: .* library size",
        ),
        (lambda: models.Multinomial(ONE)(Z), TypeError, r"Multinomial got one input: .* total count"),
        (
            lambda: models.Poisson(ONE, library_size=True)(Z, torch.ones(4)),
            ValueError,
            r"library size of Poisson has shape \[4\]: expected \[..., 1\].*library_size\[:, None\]",
        ),
        (lambda: models.Multinomial(ONE)(Z, torch.ones(4, 3)), ValueError, r"total count .* shape \[4, 3\]"),
        (
            lambda: models.NegativeBinomial(ONE, 1.0, library_size=True)(
                Z, torch.tensor([[1.0], [0.0], [2.0], [3.0]])
            ),
            ValueError,
            r"a library size of NegativeBinomial is 0: expected positive",
        ),
        (
            lambda: models.Poisson(ONE, exposure=True)(Z, -torch.ones(4, 1)),
            ValueError,
            r"an exposure of Poisson is -1: expected positive",
        ),
        (
            lambda: models.ZeroInflatedNegativeBinomial(TWO, 1.0, library_size=True, exposure=True),
            ValueError,
            r"library_size and exposure of ZeroInflatedNegativeBinomial are both True: expected one",
        ),
        (
            lambda: models.Poisson(MLP(2, 1), library_size=True)(Z, torch.ones(4, 1)),
            ValueError,
            r"Poisson has a library size and one count a row: .* always one. Say exposure=True",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_discretized_logistic_maps_the_networks_range_to_8_bits():
    p = models.DiscretizedLogistic(torch.nn.Identity(), scale=0.01)(torch.tensor([[-1.0, 0.0, 1.0]]))
    torch.testing.assert_close(p.base_dist.loc, torch.tensor([[0.0, 127.5, 255.0]]))
    torch.testing.assert_close(p.base_dist.scale, torch.full((1, 3), 1.275))


def test_ordered_options_have_cumulative_logits():
    torch.manual_seed(0)
    part, z = models.Ordered(MLP(2, 2), num_options=4, num_entries=2), torch.randn(5, 2)
    probabilities = part(z).base_dist.probs
    exact = torch.sigmoid(part.cutpoints - part.network(z)[..., None])
    torch.testing.assert_close(probabilities.cumsum(-1)[..., :-1], exact)
    with torch.no_grad():
        part.network.heads[0].weight.zero_()
        part.network.heads[0].bias.zero_()
    torch.testing.assert_close(part(z).base_dist.probs, torch.full((5, 2, 4), 0.25))


def test_units_are_those_of_the_data():
    torch.manual_seed(0)
    z, network = torch.randn(5, 2), MLP(2, (3, 3))
    units = Units(torch.tensor([5.0, 0.0, -1e6]), torch.tensor([2.0, 1e-3, 1e4]))
    u, x = torch.randn(5, 3).double(), models.Normal(network, units=units)(z)
    standard = models.Normal(network)(z).base_dist.log_prob(u).detach()
    found = x.base_dist.log_prob(units.location(u)).detach()
    torch.testing.assert_close(found, standard - units.size.log(), rtol=1e-4, atol=1e-4)
    rounded = Units(torch.zeros(1), torch.ones(1), torch.tensor([0.6]))
    assert float(rounded.scale(torch.tensor(1e-9))) == pytest.approx(0.6 / 12**0.5)
    with pytest.raises(ValueError, match="expected finite numbers, positive sizes"):
        Units(torch.zeros(2), torch.tensor([1.0, 0.0]))
