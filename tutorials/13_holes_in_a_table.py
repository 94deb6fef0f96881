# %% [markdown]
# # Holes in a table
#
# Real tables have holes: a value was not measured, a form not filled in. The usual ways out are to drop rows that lack
# something, or to fill the holes first. A generative model needs neither. What is absent in a row is integrated out of
# it,
#
# $$p(x_\mathrm{obs}) = \int p(z) \prod_{d\ \mathrm{observed}} p(x_d|z)\,dz,$$
#
# and with entries that are independent given $z$ that is no more than leaving factors out. So a row says what it has
# to say, and nothing is made up. Afterwards the same model says what may stand in the holes, and how surely.
#
# The data are scikit-learn's breast cancer table, 569 rows with 30 measurements of cell nuclei. Three entries in ten
# are taken away at random, so that what is imputed can be held against what was there.

# %%
# %matplotlib inline
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer

import pyrovae as pv

data = load_breast_cancer()
table = torch.as_tensor(data.data).float()
table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
absent = torch.rand(table.shape, generator=torch.Generator().manual_seed(1)) < 0.3
holes = table.masked_fill(absent, torch.nan)

centre = holes[:400].nanmean(0)
spread = (holes[:400] - centre).square().nanmean(0).sqrt()
truth, x = (table - centre) / spread, (holes - centre) / spread
train, test, truth = x[:400], x[400:], truth[400:]

complete = int((~train.isnan()).all(1).sum())
print(
    f"{train.isnan().float().mean():.0%} of the entries are absent, and {complete} of 400 rows are complete"
)
assert complete == 0

# %% [markdown]
# Dropping rows would leave nothing to train on.
#
# ## Train on what is there
#
# Absence is `NaN`, as in pandas, NumPy and scikit-learn, and a model need not be told of it: a NaN that reaches
# `obs=` does not count. The guide must be, for a network makes NaN of NaN. `pv.nn.MissingAsZero` shows it zeros, and
# which entries are there, so that the encoder has twice as many inputs. (A derived guide, `pv.VAE(model)`, does so by
# itself.)
#
# Student's t forgives outliers. The importance-weighted bound trains the model for what it is used for here, as Mattei
# and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets" (2019), propose.

# %%
K, D = 5, 30


def build():
    torch.manual_seed(0)
    likelihood = pv.models.StudentT(
        pv.nn.MLP(K, D, hidden=[64]),
        scale=pv.nn.PositiveParameter(torch.full((D,), 0.5)),
        df=pv.nn.PositiveParameter(torch.full((D,), 5.0)),
    )
    encoder = pv.nn.MissingAsZero(pv.nn.MLP(2 * D, (K, K), hidden=[64]))
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), likelihood)
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)))


def train_on(rows):
    vae = build()
    pv.fit(
        vae,
        rows,
        epochs=100,
        batch_size=64,
        objective=pv.objectives.IWAE(10),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=4e-3),
        seed=0,
        progress=False,
    )
    return vae


vae = train_on(train)

# %% [markdown]
# What does it cost to fill the holes first? The columns are standardized, so their means are zero. A second model is
# trained on rows that were completed with them, and both are asked for $\log p(x_\mathrm{obs})$ of rows that neither
# has seen, holes and all. `pv.compare` sums over rows; differences are paired.

# %%
filled = train_on(train.nan_to_num(0.0))
comparison = pv.compare({"trained on holes": vae, "trained on means": filled}, test, num_samples=1000, seed=0)
print(comparison.table.round(1).to_string())
worse = comparison.table.loc["trained on means"]
assert comparison.table.index[0] == "trained on holes"
assert worse.elpd_diff > 5 * worse.dse

# %% [markdown]
# The model of completed rows has learned from numbers that nobody measured, that columns vary less and go together
# less than they do.
#
# ## Impute
#
# `pv.impute` draws what a row lacks from $p(x_\mathrm{absent}|x_\mathrm{obs})$. The guide proposes latents, and
# importance weights $p(x_\mathrm{obs}, z) / q(z|x_\mathrm{obs})$ make draws of the model's own posterior of them. They
# also say how far to believe the draws: a row with few effective draws, or a Pareto k that is too high, has not
# enough.

# %%
proposed = pv.impute(vae, test, num_samples=300, resample_from=1000, seed=0)
print(proposed)
assert proposed.verdict == "poor"

# %% [markdown]
# The encoder has seen 400 rows and each pattern of holes once. For rows and holes that are new to it, its posteriors
# are not good enough, and the weights say so. These 169 rows can have posteriors of their own instead: `pv.refine`
# starts at the guide and fits a normal to each.

# %%
refined = pv.refine(vae, test, full_covariance=True, num_steps=300, num_samples=100, seed=0)
imputed = pv.impute(refined.vae, test, num_samples=300, resample_from=1000, seed=0)
print(imputed)
bad = float(imputed.weights.unreliable.double().mean())
print(f"Pareto k is too high for {bad:.0%} of the rows")
few, many = float(proposed.ess.median()), float(imputed.ess.median())
print(f"median effective sample size of 1000 draws: {few:.0f} by the guide, {many:.0f} once refined")
assert few < 50
assert many > 500
assert bad < 0.25

# %% [markdown]
# Most rows are well off now. For fewer than one in four the posterior is no normal, and even the best one leaves a
# Pareto k that asks for caution with that row.
#
# ## Is it right?
#
# Two questions: how far are the means from the truth, and do the intervals hold it as often as they say?

# %%
gone = test.isnan()


def error(guess):
    return float((guess - truth)[gone].square().mean())


neighbours = KNNImputer(n_neighbors=10).fit(train.numpy()).transform(test.numpy())
errors = {
    "column means": error(torch.zeros_like(test)),
    "ten nearest neighbours": error(torch.as_tensor(neighbours)),
    "E[x_absent | x_observed]": error(imputed.mean),
}
for name, value in errors.items():
    print(f"mean squared error, {name:26}{value:.3f}")
assert errors["E[x_absent | x_observed]"] < 0.8 * errors["ten nearest neighbours"]


def coverage(low, high):
    return float(((low <= truth) & (truth <= high))[gone].float().mean())


levels = (0.5, 0.8, 0.9, 0.95)
covers = {level: coverage(*imputed.interval(level)) for level in levels}
print(", ".join(f"{level:.0%} intervals hold {share:.1%}" for level, share in covers.items()))
print(f"of {int(gone.sum())} absent entries")
assert all(abs(share - level) < 0.06 for level, share in covers.items())
assert 0.87 < covers[0.9] < 0.93

# %% [markdown]
# The intervals mean what they say: of those that are to hold 90% of the truth, 87 to 93% do. A single filled-in
# number has no such thing, and whoever computes with it computes as if it had been measured. Compute with the draws
# instead, once with each of a few of them, and what differs between the results is what the holes cost (Rubin,
# "Multiple Imputation for Nonresponse in Surveys", 1987): `imputed.draws` is 300 completed tables.
#
# What `imputed` holds, entry by entry, and one row as a picture:

# %%
frame = imputed.to_frame()
frame["column"] = data.feature_names[frame.entry.to_numpy().astype(int)]
print(frame[["row", "column", "mean", "low", "high", "ess", "khat"]].head().round(2).to_string(index=False))
assert len(frame) == int(gone.sum())

row = 0
low, high = (end[row].numpy() for end in imputed.interval(0.9))
there = ~gone[row].numpy()
columns = np.arange(D)
figure = Figure(figsize=(11, 3.8), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[3, 1])
left.plot(columns[there], truth[row][there], "k.", label="observed")
left.vlines(
    columns[~there], low[~there], high[~there], color="C0", linewidth=3, alpha=0.5, label="90% interval"
)
left.plot(columns[~there], truth[row][~there], "rx", label="what was taken away")
left.set(xlabel="column", ylabel="standard deviations", title="one held-out row")
left.legend()
right.plot(levels, list(covers.values()), "o-")
right.axline((0.5, 0.5), slope=1, color="black", linewidth=0.8)
right.set(xlabel="intervals are to hold", ylabel="and hold", title="all absent entries")
figure.savefig("13_intervals.png")
figure

# %% [markdown]
# ## When holes have reasons
#
# All of this supposes that an entry is absent for reasons that the rest of the row explains. Where it is absent because
# of what it would have been, as incomes that are high are not told, leaving it out is not enough, and intervals are
# off without a sign. Then the model has to say how holes come about: a site more, `pyro.sample("is_there", ...)`,
# that depends on the value (Ipsen, Mattei and Frellsen, "not-MIWAE: Deep Generative Modelling with Missing not at
# Random Data", 2021, https://arxiv.org/abs/2006.12871).
