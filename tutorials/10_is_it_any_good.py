# %% [markdown]
# # Is it any good?
#
# Two questions that one number cannot answer together. Is the **model** good: does $p(x) = \int p(x|z)\,p(z)\,dz$
# resemble the data? And is the **guide** good: is $q(z|x)$ the posterior $p(z|x)$ of that model? Their failures look
# alike in the ELBO,
#
# $$\mathrm{ELBO}(x) = \underbrace{\log p(x)}_{\text{the model}} -
#   \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z|x))}_{\text{the guide}},$$
#
# and need different remedies. This tutorial asks them apart, on scikit-learn's digits with their 17 grey levels: a
# pixel is the number of dots, 0 to 16, that are set in a 4x4 block of the scan.

# %%
# %matplotlib inline
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import pyrovae as pv

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data).float()[order]
train, test = x[:1500], x[1500:1700]

# %% [markdown]
# ## Which model
#
# Three likelihoods for such counts: Poisson; negative binomial, whose variance is above its mean; and a categorical
# one that knows nothing of counts and has 17 options. All have four latents and the same guide.

# %%
K = 4


class Encoder(pv.nn.MLP):
    """Grey levels are brought to [0, 1] first: an encoder of large inputs begins overconfident."""

    def forward(self, x):
        return super().forward(x / 16)


def build(likelihood):
    return pv.VAE(
        pv.models.LatentVariableModel(pv.models.StandardNormal(K), likelihood),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(Encoder(64, (K, K), hidden=[128]))),
    )


likelihoods = {
    "Poisson": lambda: pv.models.Poisson(pv.nn.MLP(K, 64, hidden=[128])),
    "negative binomial": lambda: pv.models.NegativeBinomial(pv.nn.MLP(K, (64, 64), hidden=[128])),
    "categorical": lambda: pv.models.Categorical(pv.nn.MLP(K, 64 * 17, hidden=[128]), num_options=17),
}
vaes = {}
for name, make in likelihoods.items():
    torch.manual_seed(0)
    vaes[name] = build(make())
    pv.fit(
        vaes[name],
        train,
        epochs=40,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=4e-3),
        seed=0,
        progress=False,
    )

# %% [markdown]
# `pv.compare` puts them side by side by $\sum_n \log p(x_n)$ of rows that none was trained on, its standard error
# over rows, and the paired error of each difference. The columns are those of ArviZ. All three give probabilities of
# the same whole numbers; a density of rescaled pixels could not be compared with them, and `compare` refuses it.

# %%
comparison = pv.compare(vaes, test, num_samples=300, seed=0)
print(comparison)
best = comparison.table.index[0]
assert best == "categorical"
assert (comparison.table.elpd_diff[1:] > 5 * comparison.table.dse[1:]).all()

# %% [markdown]
# The categorical model is better by far more than the error of the difference. The warning is for later: the
# estimates err low where the guide is poor.
#
# ## What the model gets wrong
#
# A comparison ranks; it does not say whether the best is good. A predictive check does: draw data sets from the
# model, $z \sim p(z)$ and $x \sim p(x|z)$, and compare a statistic that matters (Gelman, Meng and Stern, 1996). Here:
# how many pixels of a row are blank, and how dark its darkest is.

# %%
trees = {name: pv.to_arviz(vaes[name], test, num_samples=50, seed=0) for name in ("Poisson", "categorical")}


def blank(rows):
    return (rows == 0).mean(-1)


def darkest(rows):
    return rows.max(-1)


figure = Figure(figsize=(10, 6), layout="constrained")
axes = figure.subplots(2, 2, sharex="col")
for line, (name, tree) in zip(axes, trees.items(), strict=True):
    for ax, (statistic, meaning) in zip(
        line, ((blank, "share of blank pixels"), (darkest, "darkest pixel")), strict=True
    ):
        pv.plots.predictive_check(tree, group="prior_predictive", statistic=statistic, ax=ax)
        ax.set(title=f"{name}: {meaning}", xlabel=meaning)
figure.savefig("10_predictive.png")

drawn = {name: np.asarray(tree.prior_predictive["x"]).reshape(-1, 64) for name, tree in trees.items()}
impossible = {name: float((rows > 16).any(-1).mean()) for name, rows in drawn.items()}
print(f"drawn rows with a pixel above 16: {impossible}")
assert impossible["Poisson"] > 0.2
assert impossible["categorical"] == 0
spread = {"drawn": blank(drawn["categorical"]).std(), "observed": blank(test.numpy()).std()}
print(
    {name: f"{100 * value:.1f} points" for name, value in spread.items()},
    "standard deviation of the blank share",
)
assert spread["drawn"] < spread["observed"]
figure

# %% [markdown]
# The Poisson model draws digits that no scanner can give: one in five at least has a pixel above 16. The categorical
# model cannot. So the first likelihood is wrong in kind, and no training or guide will mend it. Nor is the
# categorical model right in all: its rows differ less from each other in how many pixels are blank than real ones do.
#
# ## Is the guide the posterior?
#
# Three measures, from the cheapest to the most telling.
#
# **Pareto k** of the weights $w = p(x, z) / q(z|x)$, row by row: above $\min(1 - 1/\log_{10} S, 0.7)$ the weights'
# tail is too heavy for the mean of $S$ of them to be trusted (Vehtari et al., "Pareto Smoothed Importance Sampling",
# 2024, https://jmlr.org/papers/v25/19-556.html).
#
# **The gap** $\log p(x) - \mathrm{ELBO}$, split by refining each row on its own into what the family cannot express
# and what the encoder misses (Cremer et al., "Inference Suboptimality in Variational Autoencoders", 2018,
# https://arxiv.org/abs/1801.03558).
#
# **Calibration**: draw $(z, x)$ from the model itself. If $q(z|x)$ were the posterior, the rank of the true $z$ among
# draws of $q(z|x)$ would be uniform (Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based
# Calibration", 2018, https://arxiv.org/abs/1804.06788).

# %%
vae = vaes["categorical"]
page = pv.diagnose(vae, test, num_samples=300, gap_rows=12, seed=0)
print(page)
before = pv.calibrate(vae, num_simulations=300, num_draws=49, seed=0)
print(before)
assert page.bad_k > 0.2 * len(test)
assert page.gaps.gap["amortization"] > page.gaps.gap["approximation"]
assert not before.passed


def coverage(calibration, level=0.9):
    chosen = calibration.coverage[calibration.coverage.level == level].set_index("quantity").coverage
    return float(chosen["log q(z|x)"])


assert coverage(before) < 0.7

# %% [markdown]
# All three agree: the guide is too narrow. Regions that should hold the true latents nine times in ten hold them far
# less often. And the gap says whose fault it is: not the diagonal normal's, but the encoder's. It saw 1500 rows in
# training and is too sure of others.
#
# ## Mend it
#
# The encoder lacks rows, and the model can make as many as we like: $x \sim p(x)$. So hold the model fixed and train
# the guide alone on generated rows; this is amortized inference for a simulator. First by the ELBO, which minimizes
# $\mathrm{KL}(q(z|x)\,\|\,p(z|x))$ over the guide and so errs on the narrow side, then by the importance-weighted
# bound of ten draws (Burda et al., 2015, https://arxiv.org/abs/1509.00519), which punishes a guide that misses mass.

# %%
vae.model.requires_grad_(False)
torch.manual_seed(1)
generated = vae.generate(20_000).float()
for objective, epochs, rate in ((pv.objectives.ELBO(), 5, 2e-3), (pv.objectives.IWAE(10), 3, 1e-3)):
    pv.fit(
        vae,
        generated,
        epochs=epochs,
        batch_size=256,
        objective=objective,
        optimizer=lambda parameters, rate=rate: torch.optim.Adam(parameters, lr=rate),
        seed=0,
        progress=False,
    )
after = pv.calibrate(vae, num_simulations=300, num_draws=49, seed=0)
mended = pv.log_marginal(vae, test, num_samples=300, seed=0)
print(f"regions of 90% hold the truth: before {coverage(before):.0%}, after {coverage(after):.0%}")
bad = int(mended.unreliable.sum())
print(f"rows whose Pareto k is too high: before {page.bad_k}, after {bad} of {len(test)}")
print(
    f"log p(x) of these rows: before {page.quality.log_marginal.mean():.2f}, after {mended.log_marginal.mean():.2f}"
)
ranks = after.to_frame().loc["log p(x|z)"]
print(f"log p(x|z) after: p-value {ranks.guide:.4f}, {ranks.verdict}")
assert not after.passed
assert coverage(after) > coverage(before) + 0.15
assert bad < page.bad_k / 2

figure = Figure(figsize=(12, 6.4), layout="constrained")
axes = figure.subplots(2, 2)
for line, (when, calibration, quality) in zip(
    axes, (("before", before, page.quality), ("after", after, mended)), strict=True
):
    pv.plots.calibration_ranks(calibration.ranks, calibration.num_draws, calibration.quantities, ax=line[0])
    line[0].set(title=f"{when}: ranks of the truth", ylim=(-0.6, 0.9))
    pv.plots.khat(quality, ax=line[1])
    line[1].set(title=f"{when}: Pareto k", ylim=(-0.5, 2.5))
figure.savefig("10_guide.png")
figure

# %% [markdown]
# The model is the same as before, to the last number; only our knowledge of its posterior is better, and fewer rows
# have weights that cannot be trusted. The guide is not the posterior: the test still refuses it. A guide that covers
# its posterior draws some $z$ that are too far out; the importance weights put that right, where those of a narrow
# guide cannot.
#
# ## What ArviZ's figures say here
#
# `pv.to_arviz` gives ArviZ what it expects, and `arviz.summary` runs. But draws of a guide are independent by
# construction, so that the effective sample size, made for Markov chains, is as good as it can be however wrong the
# guide is, and R-hat, which compares chains, is NaN: there is one. The effective sample size of the importance weights
# is the figure that knows. `docs/arviz.md` goes through all of them.

# %%
import warnings

with warnings.catch_warnings():  # ArviZ 0.23 announces its successor at import
    warnings.simplefilter("ignore")
    import arviz

draws = pv.to_arviz(vaes["Poisson"], test[:20], num_samples=300, seed=0)
chains = float(arviz.ess(draws, var_names=["z"], method="bulk")["z"].mean())
weights = float(comparison.results["Poisson"].ess[:20].mean())
print(
    f"of 300 draws of the Poisson model's guide, ArviZ counts {chains:.0f}; the weights are worth {weights:.0f}"
)
assert chains > 200
assert weights < 100

# %% [markdown]
# In this order, then: a predictive check, whether the likelihood can be right at all; a comparison on held-out rows,
# which model is better; Pareto k and calibration, whether the guide, and every figure that rests on it, may be
# believed.
