"""Sequential Monte Carlo against the Kalman filter: unbiased, as accurate as it says, and right smoothed draws."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import t

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import AutoGuide
from pyrovae.models.sequences import MarkovSequence, PaddedSequence
from pyrovae.pair import particle_filter as filtering
from pyrovae.pair.chains import state_space
from pyrovae.pair.lookahead import Lookahead, look_ahead
from pyrovae.pair.particle_filter import particle_filter
from pyrovae.pair.particle_moves import Proposal
from tests.chains import D, K, chain_model, chain_rows, chain_vae, with_holes

PROPOSALS = {
    "guide": Proposal(0.0, 0.5),
    "guide, at each step": Proposal(0.0, 1.0),
    "guide, independent ancestors": Proposal(0.0, 0.7, independent=True),
    "transitions": Proposal(1.0, 0.5),
    "both": Proposal(0.4, 0.5),
    "guide, lookahead": Proposal(0.0, 0.7, lookahead=True),
    "both, lookahead": Proposal(0.5, 0.7, lookahead=True),
}
LENGTHS = torch.tensor([10, 7, 1, 9])


def holed(T=10):
    model = chain_model()
    x = with_holes(chain_rows(model, len(LENGTHS), T))
    x[2, 0, 0] = 0.5
    return model, x


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize(("factor", "shift"), [(1.4, 0.3), (0.5, 0.0)], ids=["wide", "halved"])
def test_the_mean_of_runs_is_the_evidence(monkeypatch, proposal, factor, shift):
    """2000 runs of 6 particles on ragged rows with holes: exp(log Z - exact) is 1 on average."""
    if factor < 1 and PROPOSALS[proposal].transition_share == 0:
        pytest.skip("the weights of a guide whose tails are too light have no variance to test by")
    monkeypatch.setattr(filtering, "_FEWEST_POINTS", 8)  # a pilot for each run
    model, x = holed()
    vae = chain_vae(factor, shift)
    vae.rows(x, LENGTHS)
    torch.manual_seed(1)
    with vae.evaluating():
        space = state_space(vae, Batch((x, LENGTHS), absent=True), with_guide=True)
        runs = particle_filter(space, 6, 2000, PROPOSALS[proposal])
    ratio = (runs.log_evidence - model.log_marginal(x, LENGTHS)).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * error + 1e-5).all()), (ratio.mean(0), error)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_lookahead_that_is_wrong_biases_nothing(monkeypatch, share):
    """Slopes and tilts by chance in place of what was fitted, where each step is resampled."""
    model, x = holed()
    vae = chain_vae(1.4)
    vae.rows(x, LENGTHS)

    def wrong(space, points, num_runs):
        ones = torch.ones(num_runs * len(x), K, dtype=torch.float64)
        slopes = [torch.randn(len(ones), 2 * K, dtype=torch.float64) for _ in points]
        return [
            Lookahead(num_runs, 0 * ones, ones, 0.15 * s, ones[:, 0], 0.1 * s[:, :K], 0.1 * ones)
            for s in slopes
        ]

    monkeypatch.setattr(filtering, "look_ahead", wrong)
    monkeypatch.setattr(filtering, "_FEWEST_POINTS", 2)
    torch.manual_seed(1)
    with vae.evaluating():
        space = state_space(vae, Batch((x, LENGTHS), absent=True), with_guide=True)
        runs = particle_filter(space, 10, 3000, Proposal(share, 1.0, lookahead=True))
    ratio = (runs.log_evidence - model.log_marginal(x, LENGTHS)).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * error + 1e-5).all()), (ratio.mean(0), error)
    assert 0.01 < float(error.max()) < 0.1


def test_a_lookahead_of_a_linear_gaussian_chain_is_exact():
    """log psi is log p(x_{t+1..T} | z_t) up to a constant, whatever states it is fitted at, in rows with holes too."""
    model, x = holed()
    vae = chain_vae()
    vae.rows(x, LENGTHS)
    torch.manual_seed(0)
    points, others = torch.randn(2, 10, 500, len(x), K).unbind()
    with vae.evaluating():
        space = state_space(vae, Batch((x, LENGTHS), absent=True), with_guide=False)
        ahead = look_ahead(space, list(2 * points), 1)
    assert not ahead[-1].coefficients.any()
    for step in (0, 4, 8):
        for row in range(len(x)):
            z, to_come = others[step, :, row], x[row, step + 1 : LENGTHS[row]]
            found = ahead[step](others[step])[:, row]
            if not len(to_come):
                assert not found.any()
                continue
            later = chain_model()
            expected = []
            for state in z[:5]:  # the rest of the row is a chain that begins where this state goes
                later.initial_mean.copy_(model.transition_matrix @ state + model.transition_offset)
                later.initial_scale.raw.copy_(model.transition_scale.raw)
                expected.append(later.log_marginal(to_come[None]))
            off = found[:5] - torch.cat(expected)
            assert bool((found[:5] < ahead[step].highest[row]).all())
            assert float((off - off.mean()).abs().max()) < 0.01


def test_without_a_guide_a_lookahead_sees_chains_to_their_end():
    """Proposed from the transitions alone: 200 particles a run, whole chains of 120 steps."""
    model = chain_model(noise=0.5)
    x = chain_rows(model, 6, 120)
    exact, vae = model.log_marginal(x), chain_vae(noise=0.5)
    off = {}
    for lookahead in (False, True):
        method = pv.SequentialMonteCarlo(1.0, lookahead=lookahead)
        found = pv.log_marginal(vae, x, num_samples=1000, method=method, seed=0)
        off[lookahead] = found.log_marginal - exact
    assert float(off[True].norm()) < 0.25 * float(off[False].norm())
    assert float(off[True].abs().mean()) < 0.1


def test_resampling_once_too_often_or_forgetting_a_weight_would_show():
    """What the test above takes for its own power: the spread of runs is small beside what a mistake would do."""
    _, x = holed()
    vae = chain_vae(1.4, 0.3)
    vae.rows(x, LENGTHS)
    with vae.evaluating():
        space = state_space(vae, Batch((x, LENGTHS), absent=True), with_guide=True)
        runs = particle_filter(space, 6, 2000, PROPOSALS["guide"])
    assert float((runs.log_evidence.exp() / runs.log_evidence.exp().mean(0)).std(0).max()) < 3


def test_stated_errors_cover():
    """300 rows of 12 steps, 5 runs of 20 particles: 1.96 errors cover 95%, give or take."""
    model = chain_model()
    x = chain_rows(model, 300, 12)
    result = pv.log_marginal(
        chain_vae(1.2, 0.2), x, num_samples=200, method=pv.SequentialMonteCarlo(), seed=0
    )
    covered = (result.log_marginal - model.log_marginal(x)).abs() < 1.96 * result.std_error
    assert 0.90 <= float(covered.double().mean()) <= 0.99
    total, error = result.total
    assert abs(total - float(model.log_marginal(x).sum()) - result.total_bias) < 4 * error
    assert result.verdict == "good"


def test_long_chains_where_importance_weights_say_nothing():
    """16 rows whose guide is 13.9 nats from the posterior: 1000 draws of whole chains have no weight to speak of."""
    model = chain_model()
    x = chain_rows(model, 16, 120)
    exact, vae = model.log_marginal(x), chain_vae(1.25)
    sequential = pv.log_marginal(vae, x, num_samples=1000, method=pv.SequentialMonteCarlo(), seed=0)
    weighed = pv.log_marginal(vae, x, num_samples=1000, seed=0)
    off, off_weighed = (r.log_marginal - exact for r in (sequential, weighed))
    # Errors from 5 runs: any of 16 rows is beyond this once in a thousand times.
    assert float((off / sequential.std_error).abs().max()) < float(t.ppf(1 - 0.001 / 32, 4))
    assert float(sequential.std_error.max()) < 1
    assert (
        float(off_weighed.mean()) < -3 * float(off_weighed.std()) / 4
    )  # far too low, by its error over rows
    # Roots of mean squares over 16 rows are within a fifth, so that their ratio, about 10, is not below 3 by chance.
    assert float(off_weighed.norm()) > 3 * float(off.norm())
    assert bool((weighed.khat > 1).all())
    assert weighed.verdict == "poor"
    assert isinstance(sequential, pv.SequentialLogMarginal)
    assert sequential.verdict == "good"
    assert sequential.step_ess.shape == (16, 120)
    assert "5 runs, each within 1 nat for 100.0% of rows" in str(sequential)


def test_what_steps_say():
    _, x = holed()
    method = pv.SequentialMonteCarlo(transition_share=0.5, num_runs=4)
    vae = chain_vae(1.2)
    result = pv.log_marginal(vae, x, LENGTHS, num_samples=40, method=method, seed=0)
    assert torch.equal(result.step_ess.isnan(), torch.arange(10) >= LENGTHS[:, None])
    real = result.step_ess[~result.step_ess.isnan()]
    assert 4 <= float(real.min()) < float(real.max()) <= 40
    assert torch.equal(result.ess, result.step_ess.nan_to_num(math.inf).amin(1))
    again = pv.log_marginal(vae, x, LENGTHS, num_samples=40, method=method, seed=0)
    assert torch.equal(again.log_marginal, result.log_marginal)
    assert bool((result.elbo <= result.log_marginal).all())


def test_a_proposal_that_foresees_nothing_is_called_poor():
    """Exact observations: transitions alone hit them with few particles."""
    model = chain_model(noise=0.02)
    x = chain_rows(model, 6, 30)
    vae = chain_vae(noise=0.02)
    method = pv.SequentialMonteCarlo(transition_share=1, lookahead=False)
    result = pv.log_marginal(vae, x, num_samples=100, method=method, seed=0)
    assert result.verdict == "poor"
    assert "so many are bad that the others are no better" in str(result)
    assert (
        pv.log_marginal(vae, x, num_samples=100, method=pv.SequentialMonteCarlo(), seed=0).verdict == "good"
    )


def test_padding_and_the_rows_beside_change_nothing():
    _, x = holed()
    garbage = x.where((torch.arange(10) < LENGTHS[:, None])[..., None], 1e6)
    vae = chain_vae(1.2)
    method = pv.SequentialMonteCarlo(0.3)
    clean, padded = (
        pv.log_marginal(vae, v, LENGTHS, num_samples=40, method=method, seed=0) for v in (x, garbage)
    )
    assert torch.equal(clean.log_marginal, padded.log_marginal)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_smoothed_draws_are_those_of_the_posterior(share):
    """Each row sixteen times, so that filters tell their own error."""
    model, x = holed()
    vae, exact, method = chain_vae(1.3, 0.2), model.smoothed(x, LENGTHS), pv.SequentialMonteCarlo(share)
    many, lengths = x.repeat(16, 1, 1), LENGTHS.repeat(16)
    draws = vae.sample_posterior(many, lengths, num_samples=60, method=method, seed=0)["z"]
    assert draws.shape == (60, 64, 10, K)
    assert not draws[:, torch.arange(10) >= lengths[:, None]].any()
    encoded = vae.encode(many[:4], LENGTHS, num_samples=2, method=method, seed=0)
    assert torch.equal(
        encoded, vae.sample_posterior(many[:4], LENGTHS, num_samples=2, method=method, seed=0)["z"].mean(0)
    )
    real = torch.arange(10) < LENGTHS[:, None]
    centred = draws.unflatten(1, (16, 4)) - exact.mean
    # Neighbouring steps go together: a chain is drawn, and no step by itself.
    chain = model.posterior(x, LENGTHS).sample((20_000,)) - exact.mean
    for moment in (lambda z: z, lambda z: z**2, lambda z: z[..., 1:, :] * z[..., :-1, :]):
        by_filter, expected = moment(centred).mean(0), moment(chain).mean(0)
        error = (by_filter.var(0) / 16 + moment(chain).var(0) / 20_000).sqrt()
        off = (by_filter.mean(0) - expected).abs() / error.clamp(min=1e-9)
        assert float(off[real[:, -off.shape[1] :]].max()) < 5.5


def test_models_are_compared_by_it():
    model = chain_model()
    x = chain_rows(model, 30, 8)
    worse = chain_model()
    worse.transition_matrix.mul_(0.3)
    vaes = {"true": chain_vae(1.1), "worse": pv.VAE(worse, pv.guides.ExactGuide(worse))}
    found = pv.compare(vaes, x, num_samples=100, method=pv.SequentialMonteCarlo(), seed=0)
    assert next(iter(found.table.index)) == "true"


def other_model(kind):
    def model(x):
        with pyro.plate("rows", len(x)):
            initial = dist.Normal(torch.zeros(K), 1.0).to_event(1)
            if kind == "no chain":
                z = pyro.sample("z", dist.Normal(torch.zeros(4, K), 1.0).to_event(2))
            else:
                family = dist.Laplace if kind == "a chain of Laplace's" else dist.Normal
                z = pyro.sample("z", MarkovSequence(initial, lambda z: family(z, 1.0).to_event(1), 4))
            if kind == "two latents":
                pyro.sample("shared", dist.Normal(0.0, 1.0))
            emission = lambda z: dist.Normal(z, 1.0).to_event(1)  # noqa: E731
            if kind == "not emitted":
                observed = PaddedSequence(emission(z))
            else:
                observed = PaddedSequence.emitted(emission, z * 1.0 if kind == "other states" else z)
            pyro.sample("x", observed, obs=x)

    return model


def independent(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(2))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no chain", r"the latent 'z' of the model is Normal, which is no chain"),
        ("two latents", r"the model has the latents \['shared', 'z'\]: going step by step needs one latent"),
        (
            "not emitted",
            r"observes 'x' by PaddedSequence, whose steps cannot be asked for.*PaddedSequence.emitted",
        ),
        ("other states", r"'x' is emitted by other states than the chain 'z' as it was sampled"),
        ("another guide", r"the guide draws 'z' from Normal, which has no steps.*transition_share=1"),
    ],
)
def test_pairs_of_another_kind_are_refused(kind, words):
    torch.manual_seed(0)
    model = other_model(kind)
    vae = pv.VAE(model, independent if kind == "another guide" else AutoGuide(model))
    x = torch.randn(5, 4, K)
    share = 0.0 if kind == "another guide" else 1.0
    with pytest.raises(ValueError, match=words):
        pv.log_marginal(vae, x, num_samples=20, method=pv.SequentialMonteCarlo(share))
    if kind == "another guide":
        bootstrap = pv.SequentialMonteCarlo(1.0)
        assert pv.log_marginal(vae, x, num_samples=20, method=bootstrap, seed=0).log_marginal.isfinite().all()


@pytest.mark.parametrize("kind", ["a chain", "a chain of Laplace's"])
def test_derived_guides_have_steps(kind):
    torch.manual_seed(0)
    vae, x = pv.VAE(other_model(kind)), torch.randn(5, 4, K)
    guide, bootstrap = (
        pv.log_marginal(vae, x, num_samples=1000, method=pv.SequentialMonteCarlo(share), seed=0)
        for share in (0.0, 1.0)
    )
    error = torch.hypot(guide.std_error, bootstrap.std_error)
    assert bool(((guide.log_marginal - bootstrap.log_marginal).abs() < 4 * error).all())


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="transition_share is 1.5: expected a number from 0 to 1"):
        pv.SequentialMonteCarlo(1.5)
    with pytest.raises(ValueError, match="num_runs is 1: the error is that among runs"):
        pv.SequentialMonteCarlo(num_runs=1)
    vae, x = chain_vae(), torch.randn(3, 4, D)
    for wrong in ("auto", pv.ImportanceSampling(), pv.SequentialMonteCarlo):
        for ask in (vae.sample_posterior, vae.encode, functools.partial(pv.to_arviz, vae)):
            with pytest.raises(TypeError, match=r"method is .*: expected .*SequentialMonteCarlo\(\)"):
                ask(x, method=wrong)
        with pytest.raises(TypeError, match=r"method is .*: expected SequentialMonteCarlo\(\)"):
            pv.forecast(vae, x, steps=2, method=wrong)
    method = pv.SequentialMonteCarlo()
    with pytest.raises(ValueError, match="num_samples is 23: expected a multiple of num_runs, 5"):
        pv.log_marginal(vae, x, num_samples=23, method=method)
    with pytest.raises(ValueError, match="memory_budget is 1000 bytes.*Allow at least that"):
        pv.log_marginal(vae, x, num_samples=20, method=method, memory_budget=1000)
    with pytest.raises(ValueError, match="batch_size is 1: 20 particles of"):
        pv.log_marginal(vae, x, num_samples=20, method=method, batch_size=1)


def test_holes_are_imputed_by_chains_traced_back():
    """Against the smoother: mean and spread of absent entries given all that is present."""
    model, x = holed()
    x = x[:2].repeat(8, 1, 1)  # filters tell their own error
    method = pv.SequentialMonteCarlo()
    found = pv.impute(chain_vae(1.2), x, num_samples=100, method=method, resample_from=50, seed=0)
    smoothed = model.smoothed(x)
    mean = smoothed.mean @ model.loading.T + model.mean
    absent = x.isnan()
    off = (found.mean - mean).unflatten(0, (8, 2))[:, absent[:2]]
    assert float((off.mean(0).abs() / (off.std(0) / 8**0.5)).max()) < 9  # Student's t of 7
    assert torch.equal(found.draws[:, ~absent], x[~absent].expand(100, -1))
    covariance = model.loading @ smoothed.covariance_matrix @ model.loading.T
    variance = covariance.diagonal(dim1=-2, dim2=-1) + model.noise_scale() ** 2
    spread = (found.draws.var(0) / variance).unflatten(0, (8, 2))[:, absent[:2]].mean(0)
    assert bool(((spread - 1).abs() < 0.25).all())
    assert isinstance(found.weights, pv.SequentialLogMarginal)


def test_a_row_without_density_is_named_by_its_place_in_the_data():
    x = torch.randn(260, 3, D)
    x[257, 1] = 1e30
    with pytest.raises(ValueError, match="weights of row 257 are all zero or not finite"):
        pv.impute(chain_vae(1.2), x, num_samples=2, method=pv.SequentialMonteCarlo(), seed=0)


def test_arviz_gets_states_over_time():
    _, x = holed()
    vae, method = chain_vae(1.2), pv.SequentialMonteCarlo()
    dims = {"z": ["step", "component"]}
    tree = pv.to_arviz(vae, x, LENGTHS, num_samples=5, method=method, dims=dims, seed=0)
    assert dict(tree.posterior["z"].sizes) == {"chain": 1, "draw": 5, "row": 4, "step": 10, "component": K}
    assert "traced back" in tree.posterior.attrs["draws_of"]
    assert not tree.sample_stats["log_weight"].values.any()
    with pytest.raises(ValueError, match="give one of the two"):
        pv.to_arviz(vae, x, LENGTHS, num_samples=5, resample_from=50, method=method)
