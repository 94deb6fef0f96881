# %% [markdown]
# # Posterior collapse
#
# The objective is $E_q[\log p(x|z)] - \mathrm{KL}(q(z|x)\,\|\,p(z))$. A decoder that can express the data without $z$
# may as well do so: then $q(z|x) = p(z)$ for every row, the second term costs nothing, and the latent tells nothing.
# This is posterior collapse (Bowman et al., "Generating Sentences from a Continuous Space", 2016,
# https://arxiv.org/abs/1511.06349). It is no failure of the optimizer alone. With an autoregressive decoder,
#
# $$p(x|z) = \prod_t p(x_t \,|\, x_1, \dots, x_{t-1}, z),$$
#
# every row can be told step by step from what came before, and $z$ has to earn its rate (Chen et al., "Variational
# Lossy Autoencoder", 2017, https://arxiv.org/abs/1611.02731).
#
# The data here are scikit-learn's digits, read as sentences: each 2x2 patch of the binary 8x8 image is one of 16
# words, and the 16 patches follow each other like words on a page. Nothing is lost, a sentence is the same 64 bits.

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

import pyrovae as pv
from pyrovae.objectives import ELBO, FreeBits, LinearWarmUp

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
pixels = torch.as_tensor(data.data > 8).long()[order]
labels = torch.as_tensor(data.target)[order]
PLACES = torch.tensor([8, 4, 2, 1])


def to_words(pixels):
    """Binary images [N, 64] to words [N, 16]."""
    patches = pixels.reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)
    return (patches * PLACES).sum(-1)


def to_pixels(words):
    """Words [N, 16] to binary images [N, 64]."""
    patches = words.unsqueeze(-1) // PLACES % 2
    return patches.reshape(-1, 4, 4, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 64)


words = to_words(pixels)
assert torch.equal(to_pixels(words), pixels)
train, test = words[:1400], words[1400:1600]

# %% [markdown]
# ## The model, and three ways to train it
#
# A recurrent decoder of four latents, and a guide that reads the whole sentence. The same pair is trained three
# times:
#
# - by the plain ELBO;
# - with **warm-up** (Bowman et al., 2016): the rate counts $\beta_t$ times, and $\beta_t$ rises from 0 to 1 over the
#   first two thirds of the steps, $\mathrm{loss} = -E_q[\log p(x|z)] + \beta_t\,\mathrm{KL}(q(z|x)\,\|\,p(z))$;
# - with **free bits** (Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016,
#   https://arxiv.org/abs/1606.04934): below a floor of $\lambda$ nats the rate costs what the floor costs,
#   $\mathrm{loss} = -E_q[\log p(x|z)] + \max(\lambda, \mathrm{KL})$, the KL averaged over the batch, so that nothing
#   is gained by going below it.

# %%
EPOCHS, BATCH, K = 24, 128, 4
STEPS = EPOCHS * -(-len(train) // BATCH)


def build():
    torch.manual_seed(0)
    decoder = pv.nn.AutoregressiveGRU(K, num_categories=16, hidden_size=64, embedding_size=16)
    encoder = nn.Sequential(nn.Embedding(16, 8), nn.Flatten(-2), pv.nn.MLP(16 * 8, (K, K), hidden=[128]))
    return pv.VAE(
        pv.models.LatentVariableModel(
            pv.models.StandardNormal(K), pv.models.AutoregressiveCategorical(decoder, num_steps=16)
        ),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(encoder)),
    )


objectives = {
    "plain ELBO": ELBO(),
    "warm-up": ELBO(beta=LinearWarmUp(steps=2 * STEPS // 3)),
    "free bits": ELBO(free_bits=FreeBits(4.0)),
}
vaes, histories = {}, {}
for name, objective in objectives.items():
    vaes[name] = build()
    histories[name] = pv.fit(
        vaes[name],
        train,
        epochs=EPOCHS,
        batch_size=BATCH,
        objective=objective,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        seed=0,
        progress=False,
    )

# %% [markdown]
# The history tells the true rate and the ELBO of $\beta = 1$, whatever the objective was.

# %%
figure = Figure(figsize=(9, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for name, history in histories.items():
    left.plot(history.epoch, history.rate, label=name)
    right.plot(history.epoch, history.elbo, label=name)
left.set(xlabel="epoch", ylabel="rate, nats per row", title="What the latents carry")
right.set(xlabel="epoch", ylabel="ELBO, nats per row", title="The bound while training")
left.axhline(4.0, color="gray", linewidth=0.8, linestyle=":")
left.annotate("the floor of the free bits", (EPOCHS, 4.0), ha="right", va="bottom", color="gray", fontsize=8)
left.legend(frameon=False, loc="upper right")
figure.savefig("09_training.png")
figure

# %% [markdown]
# With the plain ELBO the rate falls to nothing, while the bound goes on rising: the decoder
# learns to write digits on its own. Nothing in the bound says that anything is wrong. The rate does.
#
# ## Measure it
#
# `pv.diagnose` puts it in figures for held-out rows: the rate of each dimension, how many dimensions are active (the
# posterior mean varies over rows, $\mathrm{Var}_x(E_q[z_k|x]) > 0.01$; Burda et al., 2015,
# https://arxiv.org/abs/1509.00519), and bounds of the mutual information $I(x; z)$.

# %%
pages = {name: pv.diagnose(vae, test, num_samples=300, seed=0) for name, vae in vaes.items()}
print(pages["plain ELBO"])
assert len(pages["plain ELBO"].collapsed) == K
assert pages["plain ELBO"].summary.value["rate"] < 0.1

# %% [markdown]
# All dimensions are collapsed. The page's other figures look well all the same: Pareto k is low and log p(x) is close
# to the ELBO, for when $z$ does nothing, its posterior is its prior and the guide has it right. A good guide of a
# latent that carries nothing: rate and activity are what to look at.

# %%
print(
    pd.DataFrame(
        {
            name: {
                "rate": page.summary.value["rate"],
                "active of 4": int((page.rates.verdict == "active").sum()),
                "I(x; z) at least": page.information.lower,
                "ELBO": page.summary.value["ELBO"],
                "log p(x)": page.summary.value["log p(x)"],
            }
            for name, page in pages.items()
        }
    )
    .T.round(2)
    .to_string()
)
for name in ("warm-up", "free bits"):
    assert len(pages[name].collapsed) < K
    assert pages[name].information.lower > 0.3 > pages["plain ELBO"].information.lower
assert 3 < pages["free bits"].summary.value["rate"] < 5
assert pages["warm-up"].summary.value["rate"] < pages["free bits"].summary.value["rate"]

# %% [markdown]
# Both cures keep the latents in use. They differ in kind: free bits hold the rate near their floor, because the
# objective no longer asks for less; warm-up only starts elsewhere, and at $\beta = 1$ the bound is free to squeeze
# the rate again.
#
# ## What the latent knows
#
# A row is encoded and written anew: $z \sim q(z|x)$, then $x' \sim p(x|z)$, word by word. If $z$ carries the digit,
# $x'$ shows the same digit. A support vector machine that was trained on the real images does the reading.

# %%
reader = SVC().fit(to_pixels(train).numpy(), labels[:1400].numpy())
truth = labels[1400:1600].numpy()
written = {
    name: torch.as_tensor(
        pv.to_arviz(vae, test, num_samples=5, seed=0).posterior_predictive["x"].values[0]
    )  # [5, N, 16]
    for name, vae in vaes.items()
}
kept = {
    name: float(np.mean([(reader.predict(to_pixels(draw).numpy()) == truth).mean() for draw in draws]))
    for name, draws in written.items()
}
print(f"real test images read as their label: {reader.score(to_pixels(test).numpy(), truth):.0%}")
print({name: f"{share:.0%}" for name, share in kept.items()})
assert kept["plain ELBO"] < 0.15  # one label in ten is right by chance
assert kept["free bits"] > kept["plain ELBO"] + 0.04

figure = Figure(figsize=(8, 3), layout="constrained")
pv.plots.image_grid(
    [to_pixels(test[:12]), *(to_pixels(draws[0, :12]) for draws in written.values())],
    (8, 8),
    labels=["the row", *written],
    title="Rows, and rows written anew from their latent",
    ax=figure.subplots(),
)
figure.savefig("09_written.png")
figure

# %% [markdown]
# The collapsed model writes digits, and good ones; but which digit has nothing to do with the row: its share is that
# of guessing. With free bits the latent decides some of it. Not all: the objective asks for a rate, and the latent
# spends it on whatever makes the words easiest to predict, which need not be the label.
#
# ## What the cure costs
#
# The plain ELBO was trained for the bound, so one should expect the others to have a worse one. The differences below
# are paired, row by row, with their standard errors; log p(x) is by importance sampling.

# %%
plain = pages["plain ELBO"].quality
base = pv.elbo(vaes["plain ELBO"], test, num_samples=50, seed=0).elbo
for name in ("warm-up", "free bits"):
    bound = pv.elbo(vaes[name], test, num_samples=50, seed=0).elbo - base
    marginal = pages[name].quality.log_marginal - plain.log_marginal
    error = [float(difference.std()) / len(test) ** 0.5 for difference in (bound, marginal)]
    print(
        f"{name} less plain: ELBO {bound.mean():+.2f} ± {error[0]:.2f}, "
        f"log p(x) {marginal.mean():+.2f} ± {error[1]:.2f} nats per row"
    )
    if name == "free bits":
        assert float(bound.mean()) < -0.2
        assert float(marginal.mean()) > float(bound.mean()) / 2
    else:
        assert abs(float(bound.mean())) < 4 * error[0]

# %% [markdown]
# Free bits cost ELBO. Less than half of that is lost to the model: log p(x) falls less than the bound does, and the
# rest is the gap $\mathrm{KL}(q(z|x)\,\|\,p(z|x))$, for a posterior that says something is harder to match than the
# prior. Warm-up holds a smaller rate, and what it costs is within four standard errors of nothing.
#
# Which to choose depends on what the latents are for. For log p(x) alone a collapsed model may be as good as any, and
# then it needs no latent. Where representations are wanted, state the rate that they should have and put a floor
# under it, or give the decoder less to go by. And report the rate beside the bound.
