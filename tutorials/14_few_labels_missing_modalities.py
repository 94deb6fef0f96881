# %% [markdown]
# # Few labels, missing modalities
#
# Rows often lack more than entries: most have no label, some no second measurement. Both are holes like any other, and
# what is absent in a row is integrated out of it. Two models of scikit-learn's digits follow, each a program of a few
# lines: one where 100 of 1400 rows have a label, and one that sees a digit in two halves and is trained, and asked,
# with either, or both.

# %%
# %matplotlib inline
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import pyrovae as pv

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data > 8).float()[order]
label = torch.as_tensor(data.target)[order]
train, test = x[:1400], x[1400:]
K = 8


def adam(parameters):
    return torch.optim.Adam(parameters, lr=5e-3)


# %% [markdown]
# ## Few labels
#
# Each digit has its own region of latents, and the row follows from the latent alone:
#
# $$y \sim \mathrm{Uniform}\{0..9\}, \qquad z \sim N(m_y, \mathrm{diag}(s_y)^2), \qquad
#   x_d \sim \mathrm{Bernoulli}(f_\theta(z)_d).$$
#
# $z$ depends on the label, so where the label is unknown it has to be something: it is a latent there, and is summed
# out. In Pyro that is `obs_mask=`, and `config_enumerate` says that it is summed and not sampled; the program uses the
# value that `pyro.sample` gives, known or not. In the data an unknown label is NaN.


# %%
class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.prior = pv.models.Normal(pv.nn.MLP(10, (K, K)))
        self.likelihood = pv.models.Bernoulli(pv.nn.MLP(K, 64, hidden=[128]))

    @pyro.infer.config_enumerate
    def forward(self, x, y):
        with pyro.plate("rows", len(x)):
            uniform = dist.Categorical(logits=torch.zeros(10))
            digit = pyro.sample("digit", uniform, obs=y, obs_mask=~y.isnan())
            z = pyro.sample("z", self.prior(nn.functional.one_hot(digit.long(), 10).float()))
            pyro.sample("x", self.likelihood(z), obs=x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.posterior = pv.guides.DiagonalNormal(pv.nn.MLP(64, (K, K), hidden=[128]))

    def forward(self, x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.posterior(x))


known = label.float()[:1400].clone()
known[100:] = torch.nan
unknown = torch.full((len(test),), torch.nan)


def trained_on(rows, labels, epochs, batch_size):
    torch.manual_seed(0)
    vae = pv.VAE(Labelled(), Encoder())
    pv.fit(vae, (rows, labels), epochs=epochs, batch_size=batch_size, optimizer=adam, seed=0, progress=False)
    return vae


# %% [markdown]
# Two trainings: on the 100 labelled rows alone, and on all 1400. The log likelihood of a label is one number of a row
# beside those of 64 pixels, and 100 rows have it; each of these is taken six times, so that labels count (Kingma,
# Rezende, Mohamed and Welling, "Semi-Supervised Learning with Deep Generative Models", 2014, weigh them for that
# reason too).
#
# A label is then imputed like any other hole. `pv.impute` gives $p(y|x)$, summed over latents that the guide proposes
# and importance weights correct.

# %%
few = trained_on(train[:100], known[:100], epochs=200, batch_size=50)
rows = torch.cat([train] + 5 * [train[:100]])
labels = torch.cat([known] + 5 * [known[:100]])
many = trained_on(rows, labels, epochs=60, batch_size=128)

right, probabilities = {}, {}
for name, vae in {"100 labelled rows": few, "and 1300 without": many}.items():
    imputed = pv.impute(vae, test, unknown, num_samples=100, seed=0)
    probabilities[name] = imputed.probabilities["digit"]
    right[name] = probabilities[name].argmax(-1) == label[1400:]
    print(f"{name}: {right[name].double().mean():.1%} of held-out labels")
better = right["and 1300 without"].double() - right["100 labelled rows"].double()
print(f"difference {better.mean():+.1%} ± {better.std() / len(better) ** 0.5:.1%}")
assert float(better.mean()) > 0.02

# %% [markdown]
# Rows without a label teach what digits there are, and so where one ends and the next begins; the few labels only have
# to name them.
#
# ## Missing modalities
#
# The upper and the lower half of a digit stand for two measurements of one thing, such as an image and a text. Given
# $z$ they are independent, and each has a decoder of its own.


# %%
class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.prior = pv.models.StandardNormal(K)
        self.upper = pv.models.Bernoulli(pv.nn.MLP(K, 32, hidden=[128]))
        self.lower = pv.models.Bernoulli(pv.nn.MLP(K, 32, hidden=[128]))

    def forward(self, upper, lower):
        with pyro.plate("rows", len(upper)):
            z = pyro.sample("z", self.prior())
            pyro.sample("upper", self.upper(z), obs=upper)
            pyro.sample("lower", self.lower(z), obs=lower)


# %% [markdown]
# The posterior given a subset of them is proportional to $p(z) \prod_m p(x_m|z)$ over the subset. A product of experts
# has the same form (Wu and Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", 2018):
#
# $$q(z|x_1, ..., x_M) \propto p(z) \prod_{m\ \mathrm{present}} N\big(z; \mu_m(x_m), \sigma_m(x_m)^2\big),$$
#
# one encoder for each argument, and one that is absent in a row, all NaN, drops out there. $M$ encoders serve all
# $2^M - 1$ subsets. An expert that never had to do without the others is no good alone, though. The second training
# shows each row three times: whole, without its lower half, and without its upper half; this is the paper's objective,
# the sum of the three bounds.


# %%
def build():
    torch.manual_seed(0)
    model = Halves()
    experts = [pv.guides.DiagonalNormal(pv.nn.MLP(32, (K, K), hidden=[128])) for _ in range(2)]
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.ProductOfExperts(experts, model.prior)))


def without(half):
    return torch.full_like(half, torch.nan)


upper, lower = train[:, :32], train[:, 32:]
thrice = torch.cat([upper, upper, without(upper)]), torch.cat([lower, without(lower), lower])
vaes = {}
for name, rows, epochs in (("whole rows", (upper, lower), 60), ("and halves", thrice, 30)):
    vaes[name] = build()
    pv.fit(vaes[name], rows, epochs=epochs, batch_size=128, optimizer=adam, seed=0, progress=False)

upper, lower = test[:, :32], test[:, 32:]
given = {"both": (upper, lower), "upper": (upper, without(lower)), "lower": (without(upper), lower)}
gap = {}
for name, vae in vaes.items():
    for what, rows in given.items():
        found = pv.log_marginal(vae, *rows, num_samples=300, seed=0)
        gap[name, what] = float((found.log_marginal - found.elbo).mean())
        print(
            f"trained on {name:10}  {what:5}  log p {found.log_marginal.mean():.2f}, "
            f"log p - ELBO {gap[name, what]:.2f}"
        )
for half in ("upper", "lower"):
    assert gap["whole rows", half] > 0.5
    assert gap["and halves", half] < gap["whole rows", half] / 2

# %% [markdown]
# $\log p - \mathrm{ELBO}$ is what the guide is short of. Where each has only ever been one of two, experts lack more
# than half a nat alone; trained with halves, less than half of that.
#
# ## One half given the other
#
# How much does the upper half say of the lower one? $\log p(\mathrm{lower}|\mathrm{upper})$ is a difference of two log
# marginals, and `pv.log_marginal(..., given=["upper"])` gives it with the error of that difference.

# %%
vae = vaes["and halves"]
conditional = pv.log_marginal(vae, upper, lower, given=["upper"], num_samples=300, seed=0)
alone = pv.log_marginal(vae, *given["lower"], num_samples=300, seed=0)
gain = conditional.log_marginal - alone.log_marginal
print(
    f"log p(lower | upper) {conditional.log_marginal.mean():.2f}, log p(lower) {alone.log_marginal.mean():.2f}: "
    f"the upper half is worth {gain.mean():.2f} ± {gain.std() / len(gain) ** 0.5:.2f} nats"
)
assert float(gain.mean()) > 5 * float(gain.std()) / len(gain) ** 0.5

# %% [markdown]
# And `pv.impute` draws it.

# %%
imputed = pv.impute(vae, upper[:8], without(lower[:8]), num_samples=100, seed=0)
draws = imputed.draws["lower"]
assert bool((imputed.draws["upper"] == upper[:8]).all())


def whole(half):
    return torch.cat([upper[:8], half.float()], 1)


figure = Figure(figsize=(7, 6), layout="constrained")
grid = torch.stack([whole(lower[:8]), whole(imputed.mean["lower"]), *(whole(d) for d in draws[:5])])
pv.plots.image_grid(
    list(grid),
    (8, 8),
    labels=["row", "mean", *(f"draw {n}" for n in range(1, 6))],
    title="Lower halves, drawn given the upper ones",
    ax=figure.subplots(),
)
figure.savefig("14_halves.png")
figure

# %% [markdown]
# `pv.guides.MixtureOfExperts` takes the same arguments: each expert then has to explain both halves by itself (Shi,
# Siddharth, Paige and Torr, "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
# 2019). Where an argument lacks single entries, not all, put `pv.nn.MissingAsZero` around its expert's network.
