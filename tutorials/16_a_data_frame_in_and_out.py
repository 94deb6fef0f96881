# %% [markdown]
# # A data frame in, a data frame out
#
# Most tables are not tensors: they have numbers and counts, categories, dates, and holes. `TabularVAE` takes them as
# they are. It finds out what the columns hold, gives each kind its likelihood in one `MixedTableModel`, trains it, and
# answers in frames. Nothing is hidden: it holds a `VAE`, and all that it says is said by that model's densities, what
# is absent being integrated out.
#
# The table is scikit-learn's: 442 patients with diabetes, laboratory values, and how far the disease went within a
# year. Some of it is made a little more like life: the sex in words, a day of the visit, and a tenth of the entries
# gone.

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes

import pyrovae as pv
from pyrovae.estimator import TabularVAE
from pyrovae.tables import Schema

rng = np.random.default_rng(0)
patients = load_diabetes(as_frame=True, scaled=False).frame.drop(columns=["s4"])
patients = patients.rename(
    columns={
        "s1": "cholesterol",
        "s2": "ldl",
        "s3": "hdl",
        "s5": "triglycerides",
        "s6": "sugar",
        "target": "progression",
    }
)
patients["sex"] = patients["sex"].map({1: "one", 2: "two"})
patients["visit"] = pd.Timestamp("2019-05-01") + pd.to_timedelta(rng.integers(0, 365, len(patients)), "D")
gone = pd.DataFrame(rng.random(patients.shape) < 0.1, patients.index, patients.columns)
frame = patients.mask(gone)
train, test = frame.iloc[:350], frame.iloc[350:]
print(train.head().to_string())

# %% [markdown]
# ## What the columns hold
#
# A `Schema` says what each column is taken for, and how its values become numbers and values again, without loss.
# Where it is wrong, it is told so.

# %%
schema = Schema.of(train)
print(schema)
schema["progression"] = "positive"
values = schema.to_tensor(train)
assert schema.to_frame(values, train.index).equals(train)
print(f"{tuple(values.shape)} numbers, {int(values.isnan().sum())} of them absent")

# %% [markdown]
# ## Fit
#
# `fit` keeps a tenth of the rows to stop by, and another tenth that nothing sees, to compare strange rows with later.
# It starts at a factor analysis of the table, under a guide that is exact there whatever a row lacks, and training adds
# what is not linear; of so few rows there is little to add, and it stops soon. Half of the rows of each batch lack some
# more entries, at random: so the guide goes on telling what is known from little.

# %%
table = TabularVAE(schema=schema, epochs=150, random_state=0).fit(train)
shuffled = pd.DataFrame(
    {name: test[name].sample(frac=1, random_state=place).array for place, name in enumerate(test)}, test.index
)
found, of_shuffled = table.score(test), table.score(shuffled)
print(
    f"{len(table.history_)} epochs; log p of rows that it has not seen {found:.1f}, columns shuffled {of_shuffled:.1f}"
)
assert found > of_shuffled + 1

# %% [markdown]
# ## Fill in the holes
#
# What comes back is a frame of the same kind, the ends of intervals, and frames of draws for whoever computes with
# them. We know what was there.

# %%
imputed = table.impute(test, probability=0.9)
print(imputed)
print(imputed.cells.head(6)[["row", "column", "value", "low", "high", "probability"]].to_string(index=False))
numbers = [name for name in patients if name not in ("sex", "visit")]
hidden = gone.loc[test.index, numbers].to_numpy()
truth, low, high = (x.loc[test.index, numbers].to_numpy(float) for x in (patients, imputed.low, imputed.high))
guess = imputed.frame[numbers].to_numpy(float)
size, means = train[numbers].std().to_numpy(), train[numbers].mean().to_numpy()
error, of_means = (float(((((x - truth) / size)[hidden]) ** 2).mean()) for x in (guess, 0 * truth + means))
held = float(((low <= truth) & (truth <= high))[hidden].mean())
print(f"mean squared error {error:.2f}, of column means {of_means:.2f}")
print(f"{held:.0%} of {hidden.sum()} numbers lie in their 90% intervals")
assert error < 0.85 * of_means
assert 0.8 < held < 0.97

# %% [markdown]
# ## Rows that were not there
#
# Draws may hold what they are told: the condition is exact, and the others come from the model's p(the others | it),
# by importance sampling. No rows are drawn and thrown away.

# %%
heavy = table.sample(1000, given={"sex": "two", "bmi": 38.0})
light = table.sample(1000, given={"sex": "two", "bmi": 20.0})
print(pd.DataFrame({"bmi 38": heavy[numbers].mean(), "bmi 20": light[numbers].mean()}).round(1).T.to_string())
assert (heavy["bmi"] == 38.0).all()
assert (heavy["sex"] == "two").all()
assert heavy["progression"].mean() > light["progression"].mean() + 20

# %% [markdown]
# Labels are asked for their probabilities, given whatever a row has:

# %%
probabilities = table.predict_proba(test, "sex")
known = test["sex"].notna()
right = (probabilities.idxmax(axis=1) == test["sex"])[known].mean()
print(f"the more probable sex is right in {right:.0%} of {known.sum()} rows")
assert right > 0.55

# %% [markdown]
# ## How probable, and how strange
#
# `score_samples` gives log p(x) in nats and in the table's own units, with its Monte Carlo error. As a number that
# means little; beside the rows that training has not seen it becomes a p-value: of ordinary rows at most 5 % have p <=
# 0.05, whatever the model is worth. Two rows are spoilt, each within the range of its columns.

# %%
spoilt = test.copy()
spoilt.loc[spoilt.index[3], ["cholesterol", "ldl", "hdl"]] = [120.0, 190.0, 80.0]
spoilt.loc[spoilt.index[8], ["age", "bmi", "bp"]] = [25.0, 40.0, 63.0]
strange = table.outliers(spoilt)
print(strange)
print(strange.rows.sort_values("p_value").head(4).round(3).to_string())
print(strange.cells.loc[[spoilt.index[3]]].round(1).to_string())
assert strange.rows["p_value"].iloc[3] <= 0.1
assert strange.rows["strangest"].iloc[3] in ("cholesterol", "ldl", "hdl", "triglycerides")

# %% [markdown]
# ## The VAE inside
#
# `table.vae` is an ordinary VAE of the schema's numbers: everything that pyrovae does with one it does with this one.
# The report has panels for tables: columns and pairs of columns of real and of drawn rows, hidden numbers in their
# intervals, the strangest rows.

# %%
x = schema.to_tensor(test)
result = pv.log_marginal(table.vae, x, num_samples=500, seed=0)
print(result)
panels = pv.plots.table_panels(table, test)
for panel in panels:
    print(panel)
panels[0]

# %%
panels[1]

# %% [markdown]
# A fitted table is one file, without pickle and without rows:

# %%
table.save("patients.safetensors")
again = TabularVAE.load("patients.safetensors")
assert np.array_equal(again.score_samples(test), table.score_samples(test))
assert torch.equal(again.schema_.to_tensor(test).nan_to_num(), x.nan_to_num())
print(again.sample(2).to_string())
