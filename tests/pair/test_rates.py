"""Rates in closed form, against quadrature and against draws."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv

POINTS = torch.linspace(1e-5, 15.0, 200_001, dtype=torch.float64)


def divergence(q, p):
    """KL(q || p) on the positive numbers, by the trapezoidal rule."""
    log_q, log_p = q.log_prob(POINTS), p.log_prob(POINTS)
    return float(torch.trapezoid(log_q.exp() * (log_q - log_p), POINTS))


def pair_of(q, p):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", p())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", q())

    return pv.VAE(model, guide)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def folded():
    return dist.FoldedDistribution(dist.Normal(number(0.6), number(0.7)))


def half_normal(scale=1.0):
    return dist.HalfNormal(number(scale))


def test_numbers_that_are_folded_have_the_rate_of_what_they_became():
    x = torch.ones(3, dtype=torch.float64)
    result = pv.elbo(pair_of(folded, half_normal), x, num_samples=20_000, seed=0)
    torch.testing.assert_close(
        result.rate, torch.full_like(result.rate, divergence(folded(), half_normal())), rtol=0, atol=0.02
    )
    weighed = pv.log_marginal(pair_of(folded, half_normal), x, num_samples=20_000, seed=1)
    assert bool(((result.elbo - weighed.elbo).abs() < 5 * 2**0.5 * result.std_error).all())


@pytest.mark.parametrize("family", [dist.HalfNormal, dist.HalfCauchy])
def test_symmetric_distributions_keep_their_closed_form_when_folded(family):
    result = pv.elbo(
        pair_of(lambda: family(number(0.6)), lambda: family(number(1.1))),
        torch.ones(3, dtype=torch.float64),
        num_samples=2,
    )
    torch.testing.assert_close(result.rate, result.rate[:1].expand(3), rtol=1e-12, atol=0)
    q, p = family(number(0.6)), family(number(1.1))
    scale = number(0.6 / 1.1)
    exact = (
        float(-scale.log() + (scale**2 - 1) / 2)
        if family is dist.HalfNormal
        else float(torch.log((0.6 + 1.1) ** 2 / number(4 * 0.6 * 1.1)))
    )
    assert float(result.rate[0]) == pytest.approx(exact, abs=1e-12)
    if family is dist.HalfNormal:
        assert divergence(q, p) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("rows_repeated", [False, True])
def test_entries_that_one_program_masks_and_the_other_does_not_are_sampled(rows_repeated):
    in_q, in_p = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    q, p = dist.Normal(number(0.5), number(0.8)), dist.Normal(number(0.0), number(1.0))

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", p.expand([4]).mask(in_p).to_event(1))
            if rows_repeated and z.dim() > 2:
                raise ValueError("a program for rows alone")
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", q.expand([len(x), 4]).mask(in_q).to_event(1))

    vae, x = pv.VAE(model, guide), torch.ones(5, dtype=torch.float64)
    result = pv.elbo(vae, x, num_samples=20_000, seed=0)
    closed = float(torch.distributions.kl_divergence(q, p))
    entropy = float(q.entropy())
    cross = closed + entropy  # -E_q[log p]
    exact = closed - entropy + cross
    torch.testing.assert_close(result.rate, torch.full_like(result.rate, exact), rtol=0, atol=0.05)
    weighed = pv.log_marginal(vae, x, num_samples=20_000, seed=1)
    assert bool(((result.elbo - weighed.elbo).abs() < 5 * 2**0.5 * result.std_error).all())


def test_equal_masks_keep_the_closed_form():
    def pair(factor):
        def program(x, observe, loc):
            kept = torch.arange(3) < 2
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(number(loc), 0.5).expand([3]).mask(kept).to_event(1))
                if observe:
                    pyro.sample("x", dist.Normal(factor * z.sum(-1), 1.0), obs=x)

        return pv.VAE(lambda x: program(x, True, 0.0), lambda x: program(x, False, 1.0))

    result = pv.elbo(pair(1.0), torch.ones(2, dtype=torch.float64), num_samples=2)
    torch.testing.assert_close(result.rate, torch.full((2,), 2 * 1.0 / (2 * 0.25), dtype=torch.float64))
