# %% [markdown]
# # Variational inference
#
# Bayes' rule gives the posterior of a latent, $p(z|x) = p(x|z)\,p(z) / p(x)$, and its denominator
# $p(x) = \int p(x|z)\,p(z)\,dz$ is out of reach for most models. Variational inference takes a family of distributions
# $q(z)$ and looks for the member nearest to the posterior. Everything in it follows from one identity, which holds for
# any $q$ (Jordan et al., 1999):
#
# $$\log p(x) = \underbrace{E_q[\log p(x|z)]}_{\text{reconstruction}}
#   - \underbrace{\mathrm{KL}(q(z)\,\|\,p(z))}_{\text{rate}}
#   + \underbrace{\mathrm{KL}(q(z)\,\|\,p(z|x))}_{\text{gap}}.$$
#
# The first two terms are the evidence lower bound, the ELBO. The gap is never negative, hence the bound. And
# $\log p(x)$ is a property of the model and the row: it does not depend on $q$. So what raises the ELBO over $q$ lowers
# the gap by as much.

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_wine

import pyrovae as pv

wine = load_wine()
x = torch.as_tensor((wine.data - wine.data.mean(0)) / wine.data.std(0)).float()
x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]

# %% [markdown]
# ## The identity, in numbers
#
# In one model all terms are known: $z \sim N(0, I)$, $x|z \sim N(Wz + \mu, \sigma^2 I)$, probabilistic PCA (Tipping and
# Bishop, 1999). Its evidence is a normal density, and its posterior is normal with one covariance for all rows. It is
# fitted here to 13 measurements of 178 wines in closed form, with two latents, and then held fixed. The guide is a
# diagonal normal whose means and scales a linear layer gives; it starts at random and is trained on the ELBO. Between
# stretches of training all terms are computed: the rate and the gap in closed form,
#
# $$\mathrm{KL}(N(m_1, S_1)\,\|\,N(m_2, S_2)) = \tfrac12 \Big[ \mathrm{tr}(S_2^{-1} S_1)
#   + (m_2 - m_1)^\top S_2^{-1} (m_2 - m_1) - K + \log \frac{\det S_2}{\det S_1} \Big],$$
#
# the reconstruction by sampling.

# %%
torch.manual_seed(0)
model = pv.models.LinearGaussian(2, 13).set_maximum_likelihood(x)
# W turned by 45 degrees gives the same p(x); the two latents are then correlated in the posterior.
turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
model.set_parameters(model.mean.data, model.loading.data @ turn, model.noise_scale().detach() ** 2)
model.requires_grad_(False)
log_p = model.log_marginal(x)


def adam(parameters):
    return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=5e-3)


def falling(epochs):
    """The learning rate falls to zero along a cosine, and with it the noise of the last steps."""
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


@torch.no_grad()
def terms(encoder, vae):
    """Means over the rows of the three terms; the gap from q and p(z|x) themselves."""
    bound = pv.elbo(vae, x, num_samples=1000, seed=0)
    q, exact = encoder(x), model.posterior(x)
    q = dist.MultivariateNormal(q.mean, q.variance.diag_embed()) if isinstance(q, dist.Independent) else q
    gap = torch.distributions.kl_divergence(q, exact).mean().item()
    error = (bound.std_error.square().sum().sqrt() / len(x)).item()
    return bound.reconstruction.mean().item(), bound.rate.mean().item(), gap, error


encoder = pv.guides.DiagonalNormal(pv.nn.MLP(13, (2, 2)))
vae = pv.VAE(model, pv.guides.AmortizedGuide(encoder))
table, epoch = [], 0
for until in (0, 5, 10, 20, 40, 80, 160, 560):
    if until > epoch:
        scheduler = falling(until - epoch) if until == 560 else None
        pv.fit(
            vae,
            x,
            epochs=until - epoch,
            batch_size=89,
            optimizer=adam,
            scheduler=scheduler,
            seed=until,
            progress=False,
        )
        epoch = until
    reconstruction, rate, gap, error = terms(encoder, vae)
    total = reconstruction - rate + gap
    table.append([epoch, reconstruction, rate, gap, total])
    assert abs(total - log_p.mean().item()) < 5 * error
table = pd.DataFrame(table, columns=["epochs", "reconstruction", "rate", "gap", "sum"])
print(table.round(3).to_string(index=False))
print(f"log p(x) in closed form: {log_p.mean():.3f} nats a row")

# %%
figure = Figure(figsize=(6, 3.6), layout="constrained")
ax = figure.subplots()
elbo = table.reconstruction - table.rate
place = np.arange(len(table))
ax.axhline(log_p.mean(), color="black", linewidth=1, label="log p(x)")
ax.bar(place, table.gap, bottom=elbo, color="C1", width=0.5, label="gap: KL(q || p(z|x))")
ax.plot(place, elbo, "o-", label="ELBO")
ax.set_xticks(place, table.epochs)
ax.set(xlabel="epochs of training the guide", ylabel="nats a row", title="log p(x) = ELBO + KL")
ax.legend(loc="lower right")
figure.savefig("02_identity.png")
figure

# %% [markdown]
# In every line reconstruction, rate and gap add up to the same $\log p(x)$, which the model alone decides: training the
# guide moves nats from the gap to the ELBO, and nothing else. But some gap stays. It is the family's: a diagonal normal
# cannot have the posterior's correlation, and the best it can do is to be too narrow (its variances are the inverses of
# the diagonal of the *precision*). A normal with a full covariance can be the posterior itself.

# %%
torch.manual_seed(0)
full_encoder = pv.guides.FullNormal(pv.nn.MLP(13, (2, 2, 1)))
full = pv.VAE(model, pv.guides.AmortizedGuide(full_encoder))
pv.fit(full, x, epochs=560, batch_size=89, optimizer=adam, scheduler=falling(560), seed=0, progress=False)
gap_full = terms(full_encoder, full)[2]
exact = model.posterior(x)
with torch.no_grad():
    narrow = (encoder(x).variance / exact.variance).mean().item()
precision = exact.precision_matrix[0].diagonal()
best_diagonal = 0.5 * (precision.log().sum() - exact.precision_matrix[0].logdet()).item()
print(
    f"gap: diagonal {table.gap.iloc[-1]:.3f}, best diagonal in closed form {best_diagonal:.3f}, full {gap_full:.3f}"
)
print(f"variances of the diagonal guide are {narrow:.2f} of the posterior's on average")
assert gap_full < 0.02 < best_diagonal < table.gap.iloc[-1]
assert narrow < 0.95

# %% [markdown]
# ## Two directions
#
# $\mathrm{KL}(q\|p) = E_q[\log q - \log p]$ is large where $q$ has mass and $p$ has none, so its minimizer stays within
# one mode of $p$: *mode-seeking*. $\mathrm{KL}(p\|q) = E_p[\log p - \log q]$ is large where $p$ has mass and $q$ has
# none, so its minimizer spreads over all modes: *mode-covering*. Among normals the latter has the mean and the variance
# of $p$.
#
# A model with two modes: $z \sim N(0, 1)$ and $x|z \sim N(z^2 + 0.3 z, 0.4^2)$, since $z$ and $-z$ explain nearly the
# same $x$. The ELBO's gap is $\mathrm{KL}(q\|p)$. The objective of reweighted wake-sleep (Bornschein and Bengio, 2015)
# estimates the gradient of $\mathrm{KL}(p\|q)$ by importance weighting. The same guide is trained on each.


# %%
def square(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2 + 0.3 * z, 0.4), obs=x)


generator = torch.Generator().manual_seed(0)
z = torch.randn(2000, generator=generator)
seen = z**2 + 0.3 * z + 0.4 * torch.randn(2000, generator=generator)
x_0 = torch.tensor([2.0])  # the row to look at

grid = torch.linspace(-4, 4, 4001)
step = float(grid[1] - grid[0])
log_joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2 + 0.3 * grid, 0.4).log_prob(x_0)
evidence = (log_joint.exp().sum() * step).log()
log_posterior = log_joint - evidence
posterior = log_posterior.exp()
right = (posterior[grid > 0].sum() * step).item()


def kl(p, log_p, log_q):
    return (p * (log_p - log_q)).sum().item() * step


directions, curves, estimates = [], {}, {}
for name, objective in (
    ("KL(q||p): ELBO", pv.objectives.ELBO(4)),
    ("KL(p||q): wake-sleep", pv.objectives.ReweightedWakeSleep(20)),
):
    torch.manual_seed(0)
    one = pv.VAE(square)
    pv.fit(one, seen, epochs=60, batch_size=200, objective=objective, optimizer=adam, seed=0, progress=False)
    draws = one.sample_posterior(x_0, num_samples=20000)["z"]
    q = dist.Normal(draws.mean(), draws.std())
    curves[name], log_q = q.log_prob(grid).exp(), q.log_prob(grid)
    estimates[name] = pv.log_marginal(one, x_0, num_samples=1000, seed=0)
    directions.append(
        {
            "trained on": name,
            "mean of q": draws.mean().item(),
            "sd of q": draws.std().item(),
            "KL(q||p)": kl(curves[name], log_q, log_posterior),
            "KL(p||q)": kl(posterior, log_posterior, log_q),
        }
    )
directions = pd.DataFrame(directions).set_index("trained on")
mean = (posterior * grid).sum().item() * step
spread = ((posterior * (grid - mean) ** 2).sum().item() * step) ** 0.5
print(directions.round(2).to_string())
print(f"posterior: mean {mean:.2f}, sd {spread:.2f}, {right:.0%} of it at z > 0")
for name, estimate in estimates.items():
    print(f"{name}: log p(x) = {estimate.log_marginal.item():.2f}, Pareto k {estimate.khat.item():.2f}")
print(f"quadrature: {evidence.item():.2f}")
seeking, covering = directions["mean of q"].abs() > 1, directions["sd of q"]
assert seeking.tolist() == [True, False]
assert abs(covering.iloc[1] - spread) < 0.15
assert directions["KL(q||p)"].idxmin().startswith("KL(q||p)")
assert directions["KL(p||q)"].idxmin().startswith("KL(p||q)")
low, good = (float(estimate.log_marginal) for estimate in estimates.values())
mode = 1 - right if directions["mean of q"].iloc[0] < 0 else right
assert abs(low - (evidence.item() + np.log(mode))) < 0.1
assert abs(good - evidence.item()) < 0.1
assert all(float(estimate.khat) < 0.7 for estimate in estimates.values())

# %%
figure = Figure(figsize=(6, 3.4), layout="constrained")
ax = figure.subplots()
ax.fill_between(grid, posterior, color="0.85", label="p(z | x = 2)")
for name, curve in curves.items():
    ax.plot(grid, curve, label=name)
ax.set(xlabel="z", ylabel="density", title="One normal, two directions of KL")
ax.legend()
figure.savefig("02_directions.png")
figure

# %% [markdown]
# Each guide is better by its own measure. The ELBO's has one mode and its width; the other has the mean and the spread
# of the whole, and puts mass in the middle, where there is none.
#
# This matters for what is computed from a guide. Importance sampling from the mode-seeking guide sees one mode: its
# estimate of $\log p(x)$ is too low by the logarithm of that mode's share, and Pareto k is below 0.7 all the same. No
# figure that is computed from draws of $q$ knows of what $q$ never visits. The covering guide's estimate is right.
#
# ## One row at a time, or amortized
#
# So far one network gave every row its $q(z|x)$: amortized inference (Gershman and Goodman, 2014). The alternative is
# older: for each row, maximize the ELBO over the parameters of its own $q$. `pv.refine` does that, starting from the
# guide, with the model held fixed. The difference splits the gap (Cremer et al., 2018):
#
# $$\log p(x) - \mathrm{ELBO} = \underbrace{\log p(x) - \mathrm{ELBO}^*}_{\text{family}}
#   + \underbrace{\mathrm{ELBO}^* - \mathrm{ELBO}}_{\text{amortization}},$$
#
# where $\mathrm{ELBO}^*$ is the best that the family can do for the row. This needs a model with a network in it:
# binary digits, a Bernoulli decoder, a derived guide.

# %%
digits = torch.as_tensor(load_digits().data > 8).float()
digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
train, test = digits[:1400], digits[1400:]


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
pv.fit(vae, train, epochs=80, batch_size=64, optimizer=adam, seed=0, progress=False)

parts = []
for name, some in (("training rows", train[:100]), ("held-out rows", test[:100])):
    refined = pv.refine(vae, some, num_steps=500, samples_per_step=8, num_samples=500, seed=0)
    # The refined guide is the better one to estimate log p(x) from, too.
    log_p = pv.log_marginal(refined.vae, some, num_samples=2000, seed=0)
    family = log_p.log_marginal - refined.elbo_after
    parts.append(
        {
            "rows": name,
            "log p(x)": float(log_p.log_marginal.mean()),
            "ELBO": float(refined.elbo_before.mean()),
            "amortization": float(refined.gain.mean()),
            "its error": float(refined.gain.std()) / len(some) ** 0.5,
            "family": float(family.mean()),
            "error": float(family.std()) / len(some) ** 0.5,
        }
    )
parts = pd.DataFrame(parts).set_index("rows")
print(parts.round(2).to_string())
training, held_out = parts.loc["training rows"], parts.loc["held-out rows"]
more = held_out.amortization - training.amortization
assert more > 2 * np.hypot(held_out["its error"], training["its error"])
assert (parts.amortization > parts.family).all()
assert abs(held_out.family - training.family) < 0.15

# %%
figure = Figure(figsize=(5.6, 3.2), layout="constrained")
ax = figure.subplots()
ax.bar(parts.index, parts.family, yerr=parts.error, width=0.5, label="family", capsize=3)
ax.bar(
    parts.index,
    parts.amortization,
    bottom=parts.family,
    yerr=parts["its error"],
    width=0.5,
    label="amortization",
    capsize=3,
)
ax.set(ylabel="nats a row", title="log p(x) - ELBO, split")
ax.legend()
figure.savefig("02_gaps.png")
figure

# %% [markdown]
# In this model more of the gap is due to amortization than to the family, and more so on held-out rows: the difference
# between the two kinds of rows is beyond twice its standard error, while the family's share is the same to within 0.15
# nats. The encoder, too, fits its training rows better than others. In return it takes one pass of a network to give a
# new row its posterior, where refining took hundreds of steps of gradient ascent. So: amortize to train and to serve
# many rows, refine where a row's posterior itself is the answer. `pv.diagnose(vae, x, gap_rows=100)` gives this split
# in one line.
#
# Sources: M. I. Jordan, Z. Ghahramani, T. S. Jaakkola, L. K. Saul, "An introduction to variational methods for
# graphical models" (1999). M. E. Tipping, C. M. Bishop, "Probabilistic principal component analysis" (1999). J.
# Bornschein, Y. Bengio, "Reweighted wake-sleep" (2015). S. Gershman, N. Goodman, "Amortized inference in probabilistic
# reasoning" (2014). C. Cremer, X. Li, D. Duvenaud, "Inference suboptimality in variational autoencoders" (2018).
