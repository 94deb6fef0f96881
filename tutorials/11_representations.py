# %% [markdown]
# # Representations: classification, clusters, bits
#
# The posterior mean $E_q[z|x]$ is a short description of a row. This tutorial asks what such a description is good
# for: to classify, to find groups, and to compress, where the rate has an exact meaning in bits.

# %%
# %matplotlib inline
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyrovae as pv
from pyrovae.estimator import VAEEstimator

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data > 8).float()[order]
y = data.target[order.numpy()]
train, test, y_train, y_test = x[:1400], x[1400:], y[:1400], y[1400:]
K = 8


def build(num_features=64):
    return pv.VAE(
        pv.models.LatentVariableModel(
            pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, num_features, hidden=[128]))
        ),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(num_features, (K, K), hidden=[128]))),
    )


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3)


def trained(beta=1.0, epochs=40):
    torch.manual_seed(0)
    vae = build()
    objective = pv.objectives.ELBO(beta=beta)
    pv.fit(
        vae, train, epochs=epochs, batch_size=64, objective=objective, optimizer=adam, seed=0, progress=False
    )
    return vae


vae = trained()

# %% [markdown]
# ## Classification
#
# `pv.probe` fits a linear classifier to the means of some rows and judges it on others (Alain and Bengio,
# "Understanding Intermediate Layers Using Linear Classifier Probes", 2016, https://arxiv.org/abs/1610.01644). The
# comparison to make is with the same classifier on the pixels.

# %%
probe = pv.probe(vae, train, labels=y_train, held_out=test, held_out_labels=y_test)
print(probe)


def accuracy(features, held_out, count):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return classifier.fit(features[:count], y_train[:count]).score(held_out, y_test)


codes, held_out_codes = (pv.features(vae, rows).numpy() for rows in (train, test))
print("labels   8 latents   64 pixels")
shares = {}
for count in (20, 50, 100, 1400):
    shares[count] = (accuracy(codes, held_out_codes, count), accuracy(train.numpy(), test.numpy(), count))
    print(f"{count:6}   {shares[count][0]:9.1%}   {shares[count][1]:9.1%}")
assert probe.accuracy > 0.75
assert all(abs(latents - pixels) < 0.08 for latents, pixels in shares.values())
assert shares[max(shares)][0] < shares[max(shares)][1]

# %% [markdown]
# Eight numbers that were learned without any label do about as well as the 64 pixels. They cannot do better than the
# best classifier of pixels, for nothing can be read off them that is not in the pixels, and with all labels they do a
# little worse. Nor do they help where labels are few: pixels this coarse are a good description already.
#
# In scikit-learn's pipelines the VAE is a transformer.

# %%
pipeline = make_pipeline(
    VAEEstimator(build, epochs=40, batch_size=64, optimizer=adam, random_state=0),
    StandardScaler(),
    LogisticRegression(max_iter=2000),
)
share = pipeline.fit(train.numpy(), y_train).score(test.numpy(), y_test)
print(f"the pipeline: {share:.1%} of held-out rows right")
assert share > 0.75

# %% [markdown]
# ## Clusters
#
# `pv.cluster` runs k-means on the means and compares with the truth, if there is one, by the adjusted Rand index: 1
# for the same groups, 0 on average for unrelated ones (Hubert and Arabie, "Comparing Partitions", 1985).

# %%
found = pv.cluster(vae, test, num_clusters=10, truth=y_test)
print(found)
of_pixels = adjusted_rand_score(y_test, KMeans(10, n_init=10, random_state=0).fit_predict(test.numpy()))
print(f"k-means on the pixels: adjusted Rand index {of_pixels:.2f}")
assert found.adjusted_rand > 0.2

figure = Figure(figsize=(11, 4.6), layout="constrained")
left, right = figure.subplots(1, 2)
pv.plots.latent_map(held_out_codes, y_test, ax=left)
left.set_title("held-out rows by their posterior means, glyphs are labels")
means = vae.decode(found.centres.float())
sizes = found.labels.bincount().tolist()
pv.plots.image_grid([means[:5], means[5:]], (8, 8), ax=right)
right.set_title("what the cluster centres decode to")
figure.savefig("11_clusters.png")
figure

# %% [markdown]
# Some digits form groups of their own and some share one. The prior asks for one round cloud, not for ten; a mixture
# prior or a label would ask for groups.
#
# ## Compression
#
# A row can be sent as a draw of $z$ and then $x$ given $z$. With bits-back coding the expected length of the message
# is the negative ELBO (Hinton and van Camp, "Keeping the Neural Networks Simple by Minimizing the Description Length of
# the Weights", 1993; Townsend, Bird and Barber, "Practical Lossless Compression with Latent Variables Using Bits Back
# Coding", 2019, https://arxiv.org/abs/1901.04866),
#
# $$-\mathrm{ELBO}(x) = \underbrace{-E_q[\log p(x|z)]}_{\text{distortion: for } x \text{ given } z}
#   + \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z))}_{\text{rate: for } z},$$
#
# and one nat is $1 / \log 2$ bits. A row as it is takes 64 bits. A code that knows how often each pixel is set, and
# nothing else, is the fair rival.

# %%
bits = 1 / math.log(2)
bound = pv.elbo(vae, test, num_samples=20, seed=0)
set_share = (train.mean(0) * len(train) + 0.5) / (len(train) + 1)
pixelwise = -torch.distributions.Bernoulli(set_share).log_prob(test).sum(-1).mean()
whole, rate = float(-bound.elbo.mean()) * bits, float(bound.rate.mean()) * bits
print(f"as it is 64 bits; by pixel frequencies {float(pixelwise) * bits:.1f}; by the VAE {whole:.1f},")
print(f"of which {rate:.1f} say z and {whole - rate:.1f} say x given z")
print(f"on average of {len(test)} held-out rows; log2 of 10 labels is {math.log2(10):.1f} bits")
assert whole < float(pixelwise) * bits - 5
assert rate > math.log2(10)

# %% [markdown]
# The VAE's message is the shortest, and only a part of it is $z$. That part holds more bits than naming one of ten
# digits takes: there is room in it for how the digit is written.
#
# ## The rate-distortion curve
#
# How many bits $z$ takes is a choice. Trained with $\mathrm{loss} = \text{distortion} + \beta\,\text{rate}$, a model
# moves along a curve: small $\beta$, faithful and expensive codes; large $\beta$, cheap and coarse ones (Alemi et
# al., "Fixing a Broken ELBO", 2018, https://arxiv.org/abs/1711.00464).

# %%
curve = pv.rate_distortion(lambda beta: trained(beta, epochs=25), [0.1, 0.4, 1.0, 2.5, 6.0], test, seed=0)
curve["rate in bits"] = curve.rate * bits
print(curve.round(2).to_string(index=False))
assert (np.diff(curve.rate) < 0).all()
assert (np.diff(curve.distortion) > 0).all()
assert curve.beta[curve.elbo.idxmax()] == 1.0

figure = Figure(figsize=(5.6, 4), layout="constrained")
pv.plots.rate_distortion(curve, ax=figure.subplots())
figure.savefig("11_rate_distortion.png")
figure

# %% [markdown]
# Rate falls and distortion rises with $\beta$, and the whole message is shortest near $\beta = 1$, as it should be:
# there the loss is the length. For lossless compression take $\beta = 1$; where $z$ alone is to be kept, choose the
# rate that can be afforded and read off the curve what it loses.
