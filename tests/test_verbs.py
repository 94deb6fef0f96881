"""Every listed prior, under every listed posterior and a derived guide, with everything that can be asked of a VAE.

One table: each cell runs, with finite figures, or is refused by the words that stand in `REFUSED`. Models and guides
that are no prior beside a posterior follow as they stand in the tables of components.
"""

import inspect
import pickle

import pytest
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.guides import AmortizedGuide
from pyrovae.models import Bernoulli, LatentVariableModel
from tests.components import GUIDES, MODELS, POSTERIORS, PRIORS, D, K, net
from tests.shared_models import offsets

ROWS = 6
SHORT = pv.AnnealedImportanceSampling(num_temperatures=2, num_leapfrog_steps=1)
QUICK = {"num_steps": 2, "num_samples": 4, "samples_per_step": 2, "seed": 0}
DERIVED = "derived"


def share(prior_share):
    method = pv.ImportanceSampling(prior_share=prior_share)
    return lambda vae, x, *c: pv.log_marginal(vae, x, *c, num_samples=8, method=method, seed=0)


def many(context):
    """As many rows of context as `calibrate` simulates at least."""
    return tuple(torch.cat([c] * 4)[:20] for c in context)


def saved(vae, x, *c):
    """As loaded from a file into another of the same build."""
    vae.save("vae.safetensors")
    twin = pickle.loads(pickle.dumps(vae))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    return same_elbo(vae, twin.load("vae.safetensors"), x, *c)


def same_elbo(vae, twin, x, *c):
    ours, theirs = (pv.elbo(v, x, *c, seed=0).elbo for v in (vae, twin))
    assert torch.equal(ours, theirs)
    return ours


def densities(vae, x, *c):
    return {name: q.log_prob(q.sample()) for name, q in vae.posterior(x, *c).items()}


VERBS = {
    "fit": lambda vae, x, *c: torch.tensor(
        pv.fit(vae, (x, *c), epochs=1, seed=0, progress=False, compile=False)["elbo"].values
    ),
    "elbo": lambda vae, x, *c: pv.elbo(vae, x, *c, seed=0),
    "log_marginal from the guide": share(0),
    "log_marginal from the prior": share(1),
    "log_marginal from both": share(0.5),
    "log_marginal by annealing": lambda vae, x, *c: pv.log_marginal(
        vae, x, *c, num_samples=2, method=SHORT, seed=0
    ),
    "log_marginal by sequential Monte Carlo": lambda vae, x, *c: pv.log_marginal(
        vae, x, *c, num_samples=20, method=pv.SequentialMonteCarlo(), seed=0
    ),
    "simulated_bounds": lambda vae, x, *c: pv.simulated_bounds(
        vae, ROWS, *c, num_samples=2, method=SHORT, seed=0
    ),
    "reverse_check": lambda vae, x, *c: pv.reverse_check(vae, *c, num_rows=ROWS, num_samples=4, seed=0),
    "refine": lambda vae, x, *c: pv.refine(vae, x, *c, **QUICK),
    "refine with covariances": lambda vae, x, *c: pv.refine(vae, x, *c, full_covariance=True, **QUICK),
    "refine from scratch": lambda vae, x, *c: pv.refine(vae, x, *c, from_guide=False, **QUICK),
    "log_marginal of a refined one": lambda vae, x, *c: pv.log_marginal(
        pv.refine(vae, x, *c, **QUICK).vae, x, *c, num_samples=8, seed=0
    ),
    "diagnose": lambda vae, x, *c: pv.diagnose(vae, x, *c, num_samples=8, seed=0),
    "calibrate": lambda vae, x, *c: pv.calibrate(vae, *many(c), num_simulations=20, num_draws=4, seed=0),
    "resembles": lambda vae, x, *c: (
        pv.resembles(vae, *(torch.cat([a, a]) for a in (x, *c)), num_swaps=9, seed=0).unlikeness
    ),
    "predictive_check": lambda vae, x, *c: torch.tensor(
        pv.predictive_check(
            vae, x, *c, statistics={"rows": lambda x, *c: len(x)}, num_draws=2
        ).p_values.values
    ),
    "shared_check": lambda vae, x, *c: torch.tensor(
        pv.shared_check(vae, x, *c, num_samples=8, row_samples=4, seed=0).table["posterior_mean"].values
    ),
    "tail_check": lambda vae, x, *c: pv.tail_check(vae, x, *c, num_samples=30, seed=0).wider,
    "compare": lambda vae, x, *c: pv.compare({"a": vae, "b": vae}, x, *c, num_samples=8, seed=0),
    "to_arviz": lambda vae, x, *c: pv.to_arviz(vae, x, *c, num_samples=3, resample_from=6, seed=0),
    "forecast": lambda vae, x, *c: pv.forecast(vae, x, *c, steps=2, num_samples=3, seed=0).draws,
    "impute": lambda vae, x, *c: pv.impute(vae, x, *c, num_samples=3, seed=0).mean,
    "generate": lambda vae, x, *c: vae.generate(len(x), *c, seed=0),
    "sample_posterior": lambda vae, x, *c: vae.sample_posterior(x, *c, num_samples=2, seed=0),
    "posterior": densities,
    "sample_prior": lambda vae, x, *c: vae.sample_prior(len(x), *c, seed=0)[0],
    "sample_likelihood": lambda vae, x, *c: vae.sample_likelihood(
        vae.sample_posterior(x, *c, seed=0), *c, seed=0
    ),
    "decode": lambda vae, x, *c: vae.decode(vae.sample_posterior(x, *c, seed=0), *c),
    "features": lambda vae, x, *c: torch.as_tensor(pv.features(vae, x, *c)),
    "encode": lambda vae, x, *c: vae.encode(x, *c, seed=0),
    "reconstruct": lambda vae, x, *c: vae.reconstruct(x, *c, seed=0),
    "save and load": saved,
    "pickle": lambda vae, x, *c: same_elbo(vae, pickle.loads(pickle.dumps(vae)), x, *c),
}

# (prior or model, posterior or guide, verb): the words of the refusal. "*" is any. All priors have everything.
NOTHING_LEFT = "latents of this model are all summed out"
NO_BIJECTION = "Without them there is ImportanceSampling, and a richer guide."
IN_UNCONSTRAINED_SPACE = (
    "log_marginal by annealing",
    "simulated_bounds",
    "refine",
    "refine with covariances",
    "refine from scratch",
    "log_marginal of a refined one",
    "tail_check",
)
# The model alone runs in these, whatever the posterior: they are asked under one of each prior.
OF_THE_MODEL = ("log_marginal from the prior", "log_marginal by annealing", "simulated_bounds")
NO_CHAIN = "going step by step needs"
NONE_SHARED = "this VAE has no latents that rows share"
ABOVE, OF_ROWS_ALONE = (
    "latents above the rows",
    "'offset' are shared by all rows, and {} asks about rows alone",
)
STEP_BY_STEP = ("log_marginal by sequential Monte Carlo", "forecast")
CHAINS = {"DeepMarkovModel", "LinearGaussianChain"}
GIVEN_Z1 = "draws the latent 'z2' given others ('z1' comes before it)"
GIVEN_Z2 = "draws the latent 'z1' given others ('z2' comes before it)"
REFUSED = {
    **{("GaussianMixture", "*", verb): NOTHING_LEFT for verb in IN_UNCONSTRAINED_SPACE},
    ("GaussianMixture", "*", "posterior"): "are discrete and summed out: the guide has none",
    ("GaussianMixture", "*", "encode"): "are discrete and summed out: labels have no mean",
    ("GaussianMixture", "*", "features"): "are discrete and summed out: labels have no mean",
    **{(chain, "*", verb): NO_BIJECTION for chain in CHAINS for verb in IN_UNCONSTRAINED_SPACE},
    **{(row, "*", verb): NO_CHAIN for row in {*PRIORS, *MODELS} - CHAINS for verb in STEP_BY_STEP},
    **{(row, "*", "shared_check"): NONE_SHARED for row in {*PRIORS, *MODELS}},
    **{
        (ABOVE, "*", verb): OF_ROWS_ALONE.format(name)
        for name in (
            "refine",
            "reverse_check",
            "resembles",
            "simulated_bounds",
            "tail_check",
            "forecast",
            "posterior",
        )
        for verb in VERBS
        if verb.startswith(name)
    },
    (ABOVE, "*", "log_marginal of a refined one"): OF_ROWS_ALONE.format("refine"),
    (ABOVE, "*", "log_marginal by sequential Monte Carlo"): NO_CHAIN,
    ("HierarchicalModel", "BottomUpGuide", "posterior"): GIVEN_Z2,
    ("HierarchicalModel", "LadderGuide", "posterior"): GIVEN_Z1,
    ("HierarchicalModel", "HierarchicalGuide", "posterior"): GIVEN_Z1,
}


def words_for(*cell):
    found = [w for key, w in REFUSED.items() if all(k in ("*", c) for k, c in zip(key, cell, strict=True))]
    return found[0] if found else None


def tensors_in(found):
    """The tensors of a result: itself, by site, or the figures that it has."""
    if isinstance(found, Tensor):
        return {"": found}
    if isinstance(found, dict):
        return found
    named = ("log_marginal", "std_error", "elbo", "elbo_after", "gain", "lower", "upper", "excess")
    held = {name: getattr(found, name, None) for name in named}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def check_cells(row, column, vae, data, *, without=()):
    """Run every verb, and tell all at once what is not as the table has it."""
    wrong = {}
    for name, verb in VERBS.items():
        if name in without:
            continue
        words = words_for(row, column, name)
        try:
            found = tensors_in(verb(vae, *data))
        except Exception as error:
            if words is None or not isinstance(error, ValueError) or words not in str(error):
                wrong[name] = f"{type(error).__name__}: {error}"
            continue
        if words is not None:
            wrong[name] = f"runs, and was to be refused: {words}"
        odd = [figure for figure, value in found.items() if not bool(value.float().isfinite().all())]
        if odd:
            wrong[name] = f"not finite: {odd}"
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


@pytest.mark.parametrize("posterior", [*POSTERIORS, DERIVED])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.filterwarnings("ignore")
def test_every_prior_under_every_posterior_has_every_verb(prior, posterior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    entry, x = PRIORS[prior], torch.bernoulli(torch.full((ROWS, D), 0.5))
    context = (torch.randn(ROWS, 1),) if entry.conditional else ()
    model = LatentVariableModel(entry.make(1), Bernoulli(net(K + len(context), D)))
    guide = None
    if posterior != DERIVED:
        guide = AmortizedGuide(POSTERIORS[posterior].make(lambda sizes: net(D + len(context), sizes), K))
    vae = pv.VAE(model, guide, example=(x, *context))
    check_cells(prior, posterior, vae, (x, *context), without=() if posterior == DERIVED else OF_THE_MODEL)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.filterwarnings("ignore")
def test_every_model_under_its_guides_has_every_verb(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    entry = GUIDES[guide]
    model, data = MODELS[entry.model].make()[0], MODELS[entry.model].data(ROWS)
    check_cells(entry.model, guide, pv.VAE(model, entry.make(model), example=data), data)


@pytest.mark.filterwarnings("ignore")
def test_latents_above_the_rows_have_every_verb_or_refuse_it_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((ROWS, D), 0.5))
    check_cells(ABOVE, DERIVED, pv.VAE(offsets, example=x), (x,))


def test_every_verb_is_in_the_table():
    verbs = {word for name in VERBS for word in name.split()}
    functions = {name for name in pv.__all__ if inspect.isfunction(getattr(pv, name))}
    # Of these some work on `features`, one trains, and two make data.
    assert functions - verbs == {"cluster", "from_anndata", "probe", "rate_distortion", "stacked"}
    assert {name for name in vars(pv.VAE) if not name.startswith("_")} <= verbs
