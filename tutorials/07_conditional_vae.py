# %% [markdown]
# # The conditional VAE
#
# Rows often come with something that is known beside them, here the label $y$ of a digit. A conditional VAE models
# $p(x|y)$ and leaves $p(y)$ alone (Sohn, Lee and Yan, "Learning Structured Output Representation using Deep
# Conditional Generative Models", 2015). Everything may depend on $y$:
#
# $$\log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y)] - \mathrm{KL}(q(z|x,y)\,\|\,p(z|y)).$$
#
# The conditional prior $p(z|y)$ is optional. This tutorial trains one model with $p(z)$ and one with $p(z|y)$ and
# asks three things: does it draw the digit that is asked for, what is in $z$ now, and what is $p(z|y)$ worth.

# %%
# %matplotlib inline
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import pyrovae as pv

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data > 8).float()[order]
label = torch.as_tensor(data.target)[order]
y = torch.nn.functional.one_hot(label, 10).float()
train, test = (x[:1400], y[:1400]), (x[1400:], y[1400:])

# %% [markdown]
# In Pyro a condition is one more argument. Model and guide take `(x, y)`, with one row of `y` for each row of `x`,
# and pyrovae takes the pair `(x, y)` wherever it takes data. Written out as programs:

# %%
import pyro
import pyro.distributions as dist

K = 8


class DigitsGivenLabel(torch.nn.Module):
    """p(z|y) p(x|z,y), or with `conditional=False` p(z) p(x|z,y)."""

    def __init__(self, *, conditional):
        super().__init__()
        self.prior = pv.models.Normal(pv.nn.MLP(10, (K, K))) if conditional else None
        self.decoder = pv.nn.MLP(K + 10, 64, hidden=[128])

    def forward(self, x, y):
        with pyro.plate("rows", len(x)):
            standard = dist.Normal(torch.zeros(K), 1.0).to_event(1)
            z = pyro.sample("z", standard if self.prior is None else self.prior(y))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)


class Guide(torch.nn.Module):
    """q(z|x,y), a diagonal normal."""

    def __init__(self):
        super().__init__()
        self.posterior = pv.guides.DiagonalNormal(pv.nn.MLP(64 + 10, (K, K), hidden=[128]))

    def forward(self, x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.posterior(x, y))


vaes = {}
for name, conditional in {"p(z)": False, "p(z|y)": True}.items():
    torch.manual_seed(0)
    vaes[name] = pv.VAE(DigitsGivenLabel(conditional=conditional), Guide())
    pv.fit(
        vaes[name],
        train,
        epochs=40,
        batch_size=64,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
        seed=0,
        progress=False,
    )

# %% [markdown]
# The same from parts is one line, `pv.models.LatentVariableModel(pv.models.Normal(pv.nn.MLP(10, (K, K))),
# pv.models.Bernoulli(pv.nn.MLP(K + 10, 64, hidden=[128])))`, and one for the guide, `pv.guides.AmortizedGuide(...)`
# with the posterior above.
#
# ## Asking for a digit
#
# `generate(num_rows, y)` draws $z$ from the prior and $x$ from $p(x|z,y)$. Whether the digits are what was asked for
# is judged by a support vector machine that was trained on real images and has its own errors.

# %%
judge = SVC().fit(train[0].numpy(), label[:1400].numpy())
real = judge.score(test[0].numpy(), label[1400:].numpy())
asked = torch.arange(10).repeat_interleave(100)
recognized, drawn = {}, {}
for name, vae in vaes.items():
    torch.manual_seed(0)
    drawn[name] = vae.generate(len(asked), torch.eye(10)[asked])
    recognized[name] = judge.predict(drawn[name].numpy()) == asked.numpy()
print(f"recognized: {real:.1%} of real held-out digits")
for name, right in recognized.items():
    by_label = right.reshape(10, 100).mean(1)
    print(
        f"  {name}: {right.mean():.1%} of drawn ones; the worst label is {by_label.argmin()}, {by_label.min():.0%}"
    )
    assert right.mean() > 0.85

figure = Figure(figsize=(8, 4.6), layout="constrained")
for ax, (name, rows) in zip(figure.subplots(1, 2), drawn.items(), strict=True):
    pv.plots.image_grid(
        list(rows.reshape(10, 100, 64)[:, :8]), (8, 8), labels=[str(k) for k in range(10)], title=name, ax=ax
    )
figure.savefig("07_asked_for.png")
figure

# %% [markdown]
# Both models draw what they are asked for: the classifier of real digits reads more than 85% of them as the label.
#
# ## What is left in z
#
# The label need not be in $z$, for the decoder has it already. With $p(z)$ the rate pays for every nat that $z$
# tells, so what is told twice is paid for nothing, and training removes it: $z$ holds the style. A linear classifier
# that reads the label off $E[z|x,y]$ shows this, beside one on the latents of a VAE without labels.

# %%
torch.manual_seed(0)
unconditional = pv.VAE(
    pv.models.LatentVariableModel(
        pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, 64, hidden=[128]))
    ),
    pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(64, (K, K), hidden=[128]))),
)
pv.fit(
    unconditional,
    train[0],
    epochs=40,
    batch_size=64,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
    seed=0,
    progress=False,
)
probes = {"no label": pv.probe(unconditional, test[0], labels=label[1400:])}
probes |= {name: pv.probe(vae, *test, labels=label[1400:]) for name, vae in vaes.items()}
for name, probe in probes.items():
    print(f"{name:9}{probe}")
assert probes["p(z)"].accuracy < probes["no label"].accuracy - 0.2

# %% [markdown]
# With $p(z|y)$ the model is free to place each label where it likes, so the latents of different labels lie apart
# again: telling the label costs nothing there, as the prior knows it.
#
# Style without label can be carried over: encode one digit, decode its $z$ with each label.

# %%
styles = torch.arange(6)
vae = vaes["p(z)"]
z = vae.encode(test[0][styles], test[1][styles])
figure = Figure(figsize=(7, 4), layout="constrained")
grid = [test[0][styles], *(vae.decode(z, torch.eye(10)[[k] * len(styles)]) for k in range(10))]
pv.plots.image_grid(
    list(torch.stack(grid, 1)),
    (8, 8),
    title="A row, and its z with the labels 0 to 9 (means)",
    ax=figure.subplots(),
)
figure.savefig("07_styles.png")
figure

# %% [markdown]
# ## What the label and p(z|y) are worth
#
# Bayes' rule turns a conditional model into a model of $x$, and into a classifier:
#
# $$p(x) = \sum_y p(y)\,p(x|y), \qquad p(y|x) = p(y)\,p(x|y) / p(x).$$
#
# Each $p(x|y)$ is estimated by importance sampling with the guide that was told this $y$. Everything is in nats per
# row, so $\log p(x)$ so obtained compares with that of the VAE without labels. Differences are paired, with standard
# errors over rows.

# %%
prior = y[:1400].mean(0).double().log()
log_px, accuracy = {}, {}
for name, vae in vaes.items():
    given = torch.stack(
        [
            pv.log_marginal(
                vae, test[0], torch.eye(10)[[k] * len(test[0])], num_samples=100, seed=0
            ).log_marginal
            for k in range(10)
        ],
        1,
    )  # [N, 10]
    joint = given + prior
    log_px[name] = joint.logsumexp(1)
    accuracy[name] = float((joint.argmax(1) == label[1400:]).double().mean())
log_px["no label"] = pv.log_marginal(unconditional, test[0], num_samples=100, seed=0).log_marginal
for name, other in (("p(z)", "no label"), ("p(z|y)", "p(z)")):
    gain = log_px[name] - log_px[other]
    error = float(gain.std()) / len(gain) ** 0.5
    print(f"log p(x), {name} over {other}: {gain.mean():+.2f} ± {error:.2f} nats per row")
    assert float(gain.mean()) > 2 * error
print(f"labels by Bayes' rule: {accuracy}; the support vector machine: {real:.1%}")
assert min(accuracy.values()) > 0.9

# %% [markdown]
# Labels in training make a better model of unlabelled digits: one family of styles for each label, and the label
# chosen first, is nearer to how digits come about than one normal prior for all. $p(z|y)$ adds a little more, for
# styles that differ between labels. And a generative model trained for nothing else classifies, from Bayes' rule
# alone.
