# %% [markdown]
# # Latents above the rows
#
# The latents of the tutorials so far belong to one row each. Much of statistics is about what rows share: the mean
# of a population, the effects of hospitals, weights with priors. In a program these are the sites *outside* of the
# plate of rows, and they have a posterior $q(\theta)$ of their own, beside the amortized $q(z_n|x_n)$ of each row:
#
# $$\log p(x) \ge E_{q(\theta)}\Big[\sum_n \mathrm{ELBO}(x_n|\theta)\Big] - \mathrm{KL}(q(\theta)\,\|\,p(\theta)).$$
#
# First a model that is small enough for Markov chain Monte Carlo to tell whether the guide is right, then one with
# a latent for each of many patients.

# %%
# %matplotlib inline
import arviz as az
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoMultivariateNormal

import pyrovae as pv


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.03)


def less_and_less(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)


# %% [markdown]
# ## Eight schools
#
# Eight estimates of what coaching did for pupils' scores, each with its standard error (Rubin 1981). Rows are
# schools; they share the mean and the spread of the effects. Written with standardized effects, so that a normal
# posterior comes near.

# %%
y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, error), obs=y)


# %% [markdown]
# The derived guide draws `mu` and `tau` by one of Pyro's automatic guides, a normal with covariances after the
# logarithm of `tau`, and `eta` by a head that reads the row, and here also `mu` and `tau`: given these a school's
# effect depends on them.

# %%
guide = pv.guides.AutoGuide(schools, shared_family=AutoMultivariateNormal, reads_shared=True, hidden=(16,))
vae = pv.VAE(schools, guide, example=(y, error), seed=0)
history = pv.fit(
    vae,
    (y, error),
    epochs=1200,
    objective=pv.objectives.ELBO(4),
    optimizer=adam,
    scheduler=less_and_less,
    seed=0,
    progress=False,
)
print(vae.guide)
print(pv.elbo(vae, y, error, num_samples=200, seed=0))

# %% [markdown]
# ArviZ gets draws of `mu` and `tau` as chains of draws, and NUTS runs the same program.

# %%
torch.manual_seed(0)
sampler = MCMC(NUTS(schools), num_samples=400, warmup_steps=200, disable_progbar=True)
sampler.run(y, error)
exact = {name: draws for name, draws in sampler.get_samples().items() if name in ("mu", "tau")}
idata = pv.to_arviz(vae, y, error, num_samples=400, seed=0)
table = pd.DataFrame(
    {
        "q mean": {n: float(idata.posterior[n].mean()) for n in exact},
        "q sd": {n: float(idata.posterior[n].std()) for n in exact},
        "NUTS mean": {n: float(d.mean()) for n, d in exact.items()},
        "NUTS sd": {n: float(d.std()) for n, d in exact.items()},
    }
).round(2)
print(table)
assert abs(table.loc["mu", "q mean"] - table.loc["mu", "NUTS mean"]) < 1.5
assert 0.7 < table.loc["mu", "q sd"] / table.loc["mu", "NUTS sd"] < 1.3

# %% [markdown]
# Variational posteriors tend to be narrower than the true ones, as this one is: `to_arviz(..., resample_from=1000)`
# weighs draws of two numbers by importance, and comes near NUTS (benchmarks/results/shared_eight_schools.md).
#
# `log_likelihood` holds $\log p(y_n|\mu,\tau)$ with a school's own effect integrated out, so that `az.loo` asks the
# right question: how well would a *new* school have been foretold, without this one?

# %%
print(az.loo(idata))

# %% [markdown]
# ## Many hospitals, with a latent for each patient
#
# Each of 906 patients has four measurements, which follow from a latent severity, and from the hospital whose
# devices took them. Hospitals are of very different sizes, and the last one has no patients yet: its effect is one
# more latent in the plate, of which the data say nothing but what the other hospitals say of all.

# %%
G, D = 24, 4
generator = torch.Generator().manual_seed(0)
sizes = torch.cat([torch.full((12,), 4), torch.full((11,), 78), torch.tensor([200])])
hospital = torch.repeat_interleave(torch.arange(G), sizes)
true_effect = 1.0 + 0.8 * torch.randn(G, generator=generator)
loadings = torch.tensor([1.0, 0.8, -0.6, 0.4])
severity = torch.randn(len(hospital), 1, generator=generator)
measured = true_effect[hospital][:, None] + severity * loadings
measured = measured + 0.5 * torch.randn(len(hospital), D, generator=generator)
new = hospital == G - 1
x, where, x_new, where_new = measured[~new], hospital[~new], measured[new], hospital[new]


class Hospitals(torch.nn.Module):
    """Patients below hospitals; `pooling` says what hospitals have in common."""

    def __init__(self, pooling):
        super().__init__()
        self.pooling = pooling
        self.decoder = torch.nn.Linear(1, D, bias=False)
        self.log_noise = torch.nn.Parameter(torch.zeros(D))

    def forward(self, x, hospital):
        if self.pooling == "partial":
            mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
            spread = pyro.sample("spread", dist.HalfNormal(2.0))
        else:
            mean, spread = 0.0, 5.0
        with pyro.plate("hospitals", 1 if self.pooling == "complete" else G):
            standardized = pyro.sample("standardized", dist.Normal(0.0, 1.0))
        effect = (mean + spread * standardized).expand(G)
        with pyro.plate("patients", len(x)):
            z = pyro.sample("severity", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            location = self.decoder(z) + effect[hospital][:, None]
            pyro.sample("x", dist.Normal(location, self.log_noise.exp()).to_event(1), obs=x)


# %% [markdown]
# Three models: hospitals alike (complete pooling), hospitals that have nothing to do with each other (no pooling),
# and hospitals of one population (partial pooling). Batches of 151 patients are weighed against all 906: `fit`
# knows how many there are.

# %%
vaes = {}
for pooling in ("complete", "none", "partial"):
    torch.manual_seed(0)
    model = Hospitals(pooling)
    vaes[pooling] = pv.VAE(model, pv.guides.AutoGuide(model, hidden=(16,)), example=(x, where), seed=0)
    pv.fit(
        vaes[pooling],
        (x, where),
        epochs=100,
        batch_size=151,
        optimizer=adam,
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.96),
        seed=0,
        progress=False,
    )
    print(f"{pooling:>9}: {pv.elbo(vaes[pooling], x, where, seed=0)}")


# %% [markdown]
# ### What pooling does to groups
#
# Small hospitals are pulled towards the population, large ones hardly. The new one is the population.


# %%
def effects(vae, num_samples=400):
    """Draws of the hospitals' effects, [S, G]."""
    drawn = vae.sample_shared(num_samples, seed=0)
    if "mean" not in drawn:
        return 5.0 * drawn["standardized"].expand(-1, G)
    return drawn["mean"][:, None] + drawn["spread"][:, None] * drawn["standardized"]


rows = []
for name in ("none", "partial"):
    draws = effects(vaes[name])
    off = (draws.mean(0) - true_effect).abs()
    rows.append(
        {
            "pooling": name,
            "error, 4 patients": float(off[:12].mean()),
            "error, 78 patients": float(off[12:23].mean()),
            "sd, 4 patients": float(draws.std(0)[:12].mean()),
            "sd, 78 patients": float(draws.std(0)[12:23].mean()),
            "sd, new hospital": float(draws.std(0)[23]),
        }
    )
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %%
figure = Figure(figsize=(6, 3.2))
axes = figure.subplots()
for name, shift in (("none", -0.15), ("partial", 0.15)):
    draws = effects(vaes[name])
    axes.errorbar(
        torch.arange(G) + shift,
        draws.mean(0),
        2 * draws.std(0),
        fmt="o",
        ms=3,
        lw=1,
        label=f"pooling: {name}",
    )
axes.plot(true_effect, "k_", ms=8, label="truth")
axes.set(xlabel="hospital: 12 of 4 patients, 11 of 78, a new one", ylabel="effect", ylim=(-3, 5))
axes.legend(fontsize=8)
figure

# %% [markdown]
# ### The patients of a new hospital
#
# `log_marginal` is the predictive density $\log E_{q(\theta)}[p(x|\theta)]$, severity integrated out, by nested
# sampling: the effect of the new hospital is drawn anew each time. Who believes all hospitals alike is surprised by
# one that is not, and who believes them unrelated expects anything.

# %%
found = {
    name: pv.log_marginal(vae, x_new[:40], where_new[:40], num_samples=300, row_samples=8, seed=0)
    for name, vae in vaes.items()
}
for name, result in found.items():
    print(f"{name:>9}: {result}")
assert found["partial"].total[0] > found["none"].total[0]

# %% [markdown]
# Latents by row at one draw of what they share are those of an ordinary VAE, of which everything can be asked.

# %%
draws = vaes["partial"].sample_shared(1, seed=0)
one = vaes["partial"].given_shared({name: draw[0] for name, draw in draws.items()})
print(pv.log_marginal(one, x[:50], where[:50], num_samples=200, seed=0))
print(pv.diagnose(one, x[:100], where[:100], num_samples=100, reverse_rows=0, seed=0).rates)
