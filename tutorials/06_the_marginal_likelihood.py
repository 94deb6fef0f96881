# %% [markdown]
# # The marginal likelihood
#
# How probable is a row under the model? The answer is an integral over the latents,
#
# $$p(x) = \int p(x|z)\, p(z)\, dz,$$
#
# which models are compared by and which nobody can do exactly once there is a network in $p(x|z)$. It can be estimated,
# and an estimate can be wrong without looking so. This tutorial estimates it in three ways, says what each costs, and
# shows the warning signs.

# %%
# %matplotlib inline
import itertools

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import pyrovae as pv

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data > 8).float()[order]
train, test = x[:1400], x[1400:1500]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3)


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = pv.nn.MLP(8, 64, hidden=[128])

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


torch.manual_seed(0)
vae = pv.VAE(Digits())
pv.fit(vae, train, epochs=60, batch_size=64, optimizer=adam, seed=0, progress=False)

# %% [markdown]
# ## Three ways
#
# **From the prior.** $p(x) = E_{p(z)}[p(x|z)]$, so draw $z$ from the prior and average. Unbiased, and poor where the
# posterior is a small part of the prior: nearly all draws explain the row badly.
#
# **Importance sampling.** Draw from the guide instead and weigh each draw,
#
# $$p(x) = E_{q(z|x)}[w], \qquad w = \frac{p(x|z)\,p(z)}{q(z|x)}.$$
#
# Were $q(z|x)$ the posterior itself, every weight would be $p(x)$. The nearer it is, the less the weights vary.
#
# **Annealed importance sampling** (Neal, 2001; for such models Wu et al., 2017). Go from the prior to the posterior in
# many small steps, $p(z)\,p(x|z)^{\beta}$ with $\beta$ from 0 to 1, move the draws by Hamiltonian Monte Carlo at each,
# and multiply the small weights of the steps. A chain gives one weight, and needs no guide.
#
# The measure of cost is how often the decoder is run for a row. A chain of 200 temperatures with 5 leapfrog steps runs
# it about 1000 times, each with its gradient: 10 chains come to 10000. The pilot chains that find its step sizes, 16 of
# them with 20 moves more, come to 17500 again, however few chains follow.

# %%
from_prior = pv.ImportanceSampling(prior_share=1.0)
from_guide = pv.ImportanceSampling()
annealed = pv.AnnealedImportanceSampling(num_temperatures=200, num_leapfrog_steps=5)

results = {}
for name, method in (("prior", from_prior), ("guide", from_guide)):
    for num_samples in (10, 100, 1000, 10000):
        results[name, num_samples] = pv.log_marginal(
            vae, test, num_samples=num_samples, method=method, seed=0
        )
ANNEALED_RUNS = 10 * 199 * 5 + 16 * (199 + 19) * 5
results["annealed", ANNEALED_RUNS] = pv.log_marginal(vae, test, num_samples=10, method=annealed, seed=0)

table = pd.DataFrame(
    [
        {
            "method": name,
            "decoder runs": runs,
            "log p(x)": result.total[0] / len(test),
            "error": result.total[1] / len(test),
            "good k": result.share_good,
        }
        for (name, runs), result in results.items()
    ]
)
bound = pv.elbo(vae, test, num_samples=100, seed=0)
print(bound)
print(table.round(3).to_string(index=False))
estimate = table.set_index(["method", "decoder runs"])["log p(x)"]
best = estimate["guide", 10000]
assert estimate["prior", 10] < best - 5
assert estimate["prior", 1000] < best - 0.3
assert abs(estimate["guide", 100] - best) < 0.3
assert abs(estimate["annealed", ANNEALED_RUNS] - best) < 0.2
assert abs(estimate["prior", 10000] - best) < 0.2

# %% [markdown]
# All errors are downward. The mean of the weights is unbiased for $p(x)$, and its logarithm therefore errs low
# (Jensen's inequality), by about half the squared error of a row where that is small. From the prior, ten draws are
# more than 5 nats too low and a thousand still more than 0.3; from the guide a hundred come nearer than that. With
# eight latent dimensions even the prior gets there in the end, and all three agree to within 0.2 nats. What it takes
# grows about exponentially with the rate, the nats by which posterior and prior differ. (Pareto k, the last column, is
# the subject of the last section; of ten weights there is none.)
#
# ## The IWAE bound
#
# What importance sampling with $K$ draws gives is itself a bound in expectation (Burda et al., 2015):
#
# $$L_K = E\Big[\log \frac1K \sum_{k=1}^K w_k\Big], \qquad \mathrm{ELBO} = L_1 \le L_2 \le \dots \to \log p(x).$$

# %%
sizes = [1, 2, 5, 10, 20, 50, 100, 1000]
bounds = {}
for size in sizes:
    repeats = [pv.log_marginal(vae, test, num_samples=size, seed=seed).log_marginal for seed in range(20)]
    by_repeat = torch.stack(repeats).mean(1)
    bounds[size] = (by_repeat.mean().item(), by_repeat.std().item() / len(repeats) ** 0.5)
for size, (value, error) in bounds.items():
    print(f"K = {size:>4}: {value:.3f} ± {error:.3f}")
values = [value for value, _ in bounds.values()]
assert all(a < b for a, b in itertools.pairwise(values))
assert abs(values[0] - bound.elbo.mean().item()) < 0.15

# %%
figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for name, part in table[table.method != "annealed"].groupby("method", sort=False):
    left.errorbar(part["decoder runs"], part["log p(x)"], yerr=part.error, fmt="o-", capsize=3, label=name)
left.plot(ANNEALED_RUNS, estimate["annealed", ANNEALED_RUNS], "k*", markersize=10, label="annealed")
left.set(xscale="log", xlabel="decoder runs a row", ylabel="log p(x), nats a row", title="Three ways")
left.legend()
right.errorbar(
    sizes, values, yerr=[error for _, error in bounds.values()], fmt="o-", capsize=3, label="$L_K$"
)
right.axhline(best, color="black", linewidth=0.8, label="log p(x), 10000 draws")
right.set(xscale="log", xlabel="K", ylabel="nats a row", title="The IWAE bound")
right.legend()
figure.savefig("06_three_ways.png")
figure

# %% [markdown]
# The bound starts at the ELBO and rises with each $K$. A log-likelihood reported "with 5000 samples" is such a bound:
# it means little without the number of samples, and nothing without a word on the weights.
#
# ## When to distrust it
#
# **Pareto k.** If the weights have a heavy tail, the largest of them decides the estimate, and the largest has probably
# not been seen. Pareto k is the shape of a generalized Pareto distribution fitted to the largest weights (Vehtari et
# al., 2024). Above a limit, $\min(1 - 1/\log_{10} S, 0.7)$ for $S$ draws, neither the estimate nor its error is to be
# believed. Below, each row's estimate with 1000 draws, for which the limit is 0.67, is held against a better one: 10000
# draws from a refined guide.

# %%
refined = pv.refine(vae, test, num_steps=400, samples_per_step=8, num_samples=200, seed=0)
reference = pv.log_marginal(refined.vae, test, num_samples=10000, seed=1)
judged = results["guide", 1000]
difference = (judged.log_marginal - reference.log_marginal).abs()
good = ~judged.unreliable
assert round(judged.good_k, 2) == 0.67
print(f"{judged.share_good:.0%} of rows have a good k, after refining {reference.share_good:.0%}")
print(
    f"mean difference: {difference[good].mean():.3f} where k is good, {difference[~good].mean():.3f} elsewhere"
)
assert difference[~good].mean() > difference[good].mean()
assert reference.share_good > judged.share_good

# %%
figure = Figure(figsize=(6, 3.6), layout="constrained")
ax = figure.subplots()
ax.scatter(judged.khat, difference, s=14)
ax.axvline(judged.good_k, color="black", linewidth=0.8)
ax.set(
    xlabel="Pareto k, 1000 draws from the guide", ylabel="|difference|, nats", title="Rows that k warns of"
)
figure.savefig("06_pareto_k.png")
figure

# %% [markdown]
# Rows above the limit are off by more than one and a half times as much as the others, on average; single ones below
# it are off as well, so k is a warning and no verdict. The cure is a better proposal: a
# refined guide, a share of draws from the prior (`pv.ImportanceSampling(prior_share=0.1)`), or annealing.
#
# **What k cannot see.** Pareto k is computed from draws of $q$. A mode of the posterior that $q$ never visits leaves no
# trace in the weights. The model of tutorial 02, $x|z \sim N(z^2 + 0.3z, 0.4^2)$, has two modes and its guide takes
# one.
#
# The check from outside: simulate rows *from the model*. For these one exact posterior draw is known, the latents that
# made the row. Annealing backwards from it gives an upper bound of $\log p(x)$, annealing forwards a lower one (Grosse
# et al., 2015), each in expectation:
#
# $$E\Big[\log \frac1S \sum_s w_s\Big] \le \log p(x) \le E\Big[-\log \frac1S \sum_s \frac{1}{w'_s}\Big].$$


# %%
def square(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2 + 0.3 * z, 0.4), obs=x)


torch.manual_seed(0)
z = torch.randn(2000)
seen = z**2 + 0.3 * z + 0.4 * torch.randn(2000)
two_modes = pv.VAE(square)
pv.fit(two_modes, seen, epochs=60, batch_size=200, optimizer=adam, seed=0, progress=False)

sandwich = pv.simulated_bounds(two_modes, 200, num_samples=8, method=annealed, seed=0)
print(sandwich)
sampled = pv.log_marginal(two_modes, sandwich.x, num_samples=1000, seed=0)
far = sandwich.x > 1.5  # where the two modes are apart
short = (sandwich.lower - sampled.log_marginal)[far].mean().item()
quiet = (~sampled.unreliable[far]).double().mean().item()
print(f"on rows above 1.5, importance sampling is {short:.2f} nats below the lower bound,")
print(f"and k is good for {quiet:.0%} of them")
assert short > 0.5
assert quiet > 0.75

# %%
figure = Figure(figsize=(6, 3.6), layout="constrained")
ax = figure.subplots()
order = sandwich.x.argsort()
ax.fill_between(sandwich.x[order], sandwich.lower[order], sandwich.upper[order], color="0.7", label="bounds")
ax.plot(sandwich.x[order], sampled.log_marginal[order], ".", markersize=4, label="importance sampling")
ax.set(
    xlabel="x, simulated from the model", ylabel="log p(x), nats", title="A mode that the guide never visits"
)
ax.legend()
figure.savefig("06_missing_mode.png")
figure

# %% [markdown]
# Where the modes are apart, importance sampling is more than 0.5 nats below the *lower* bound, and k is good for
# more than three quarters of those rows. The sandwich caught what the weights could not show.
#
# Annealing can fail too, with too few temperatures, and here the sandwich judges itself: the gap between the bounds
# limits the error of either. Back to the digits, with 20 temperatures and with 200:

# %%
gaps = {}
for num_temperatures in (20, 200):
    method = pv.AnnealedImportanceSampling(num_temperatures=num_temperatures, num_leapfrog_steps=5)
    simulated = pv.simulated_bounds(vae, 30, num_samples=4, method=method, seed=0)
    gaps[num_temperatures] = simulated.gap
    print(f"{num_temperatures} temperatures: {simulated}")
assert gaps[20][0] > 1.5
assert gaps[200][0] < 0.6

# %% [markdown]
# With 20 temperatures the bounds are more than 1.5 nats apart, and nothing finer than that may be said; with 200 they
# are within 0.6.
#
# What to report, then: importance sampling from the guide with the share of rows whose k is good; the same from
# the refined guide; and, once for a model, the sandwich on simulated rows. If the three agree, the number is the
# model's.
#
# Sources: R. M. Neal, "Annealed importance sampling" (2001). Y. Burda, R. Grosse, R. Salakhutdinov, "Importance
# weighted autoencoders" (2015). R. Grosse, Z. Ghahramani, R. P. Adams, "Sandwiching the marginal likelihood using
# bidirectional Monte Carlo" (2015). Y. Wu, Y. Burda, R. Salakhutdinov, R. Grosse, "On the quantitative analysis of
# decoder-based generative models" (2017). A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed
# importance sampling" (2024).
