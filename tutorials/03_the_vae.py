# %% [markdown]
# # The variational autoencoder
#
# A latent variable model draws a row in two steps, $z \sim p(z)$ and $x \sim p_\theta(x|z)$. Its posterior $p(z|x)$ is
# out of reach, so a guide $q_\phi(z|x)$ with one network for all rows stands in for it. Both are trained by maximizing
# the evidence lower bound (Kingma and Welling, 2013; Rezende et al., 2014)
#
# $$\mathrm{ELBO}(x) = \underbrace{E_q[\log p(x|z)]}_{\text{reconstruction}} -
#   \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z))}_{\text{rate}} \le \log p(x).$$

# %%
# %matplotlib inline
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import pyrovae as pv

data = load_digits()
order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(data.data > 8).float()[order]
train, test = x[:1400], x[1400:]

# %% [markdown]
# The generative story, as an ordinary Pyro program: one plate over rows, one latent vector for each, 64 binary pixels
# given it. Nobody writes the guide; it is derived from the model.


# %%
class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = pv.nn.MLP(8, 64, hidden=[128])

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


# %% [markdown]
# ## The gradient
#
# The parameters $\phi$ of the guide stand in the distribution that the expectation is over, so that the gradient cannot
# simply be taken inside. There are two ways out. The *score function* estimator holds for any $q$,
#
# $$\nabla_\phi E_q[f(z)] = E_q\big[f(z)\, \nabla_\phi \log q_\phi(z|x)\big],$$
#
# and knows nothing of the slope of $f$. *Reparameterization* writes the draw as a function of noise that does not
# depend on $\phi$, $z = \mu_\phi(x) + \sigma_\phi(x)\, \epsilon$ with $\epsilon \sim N(0, I)$, and differentiates
# through it:
#
# $$\nabla_\phi E_q[f(z)] = E_\epsilon\big[\nabla_\phi f(\mu_\phi(x) + \sigma_\phi(x)\, \epsilon)\big].$$
#
# Both are unbiased; what differs is the variance. Here it is for the simplest parameter, the posterior mean of one row,
# under a decoder as it starts: $f(z) = \log p(x|z) + \log p(z) - \log q(z)$. With $M$ draws in place of one, a
# variance falls as $1/M$. The score function is given a second chance, with a baseline subtracted from $f$.

# %%
torch.manual_seed(0)
decoder = Digits().decoder
mean = torch.zeros(8, requires_grad=True)


def gradients(num_draws, repeats=2000):
    """Three estimates of the gradient by the posterior mean: [3, repeats, 8]."""
    noise = torch.randn(repeats, num_draws, 8)
    means = mean.expand(repeats, 8).detach().requires_grad_()
    found = []
    baseline = 0.0
    for reparameterized in (True, False, False):
        q = dist.Normal(means.unsqueeze(1), 0.5).to_event(1)
        z = means.unsqueeze(1) + 0.5 * noise
        if not reparameterized:
            z = z.detach()
        log_q = q.log_prob(z)
        log_likelihood = dist.Bernoulli(logits=decoder(z)).to_event(1).log_prob(train[0])
        f = log_likelihood + dist.Normal(0.0, 1.0).expand([8]).to_event(1).log_prob(z) - log_q
        surrogate = f if reparameterized else (f.detach() - baseline) * log_q
        found.append(torch.autograd.grad(surrogate.mean(1).sum(), means)[0])
        if not reparameterized:
            baseline = f.detach().mean()  # for the third
    return torch.stack(found)


rows = []
for num_draws in (1, 4, 16):
    path, score, reduced = gradients(num_draws)
    rows.append(
        {
            "M": num_draws,
            "reparameterized": path.var(0).mean().item(),
            "score function": score.var(0).mean().item(),
            "with a baseline": reduced.var(0).mean().item(),
        }
    )
    standard_error = ((path.var(0) + score.var(0)) / len(path)).sqrt()
    assert bool(((path.mean(0) - score.mean(0)).abs() < 5 * standard_error).all())
variances = pd.DataFrame(rows).set_index("M")
ratios = variances.div(variances["reparameterized"], axis=0).min()
print(variances.round(3).to_string())
print("variances, as multiples of the reparameterized one:", ratios.round(0).to_dict())
assert ratios["score function"] > 1000
assert ratios["with a baseline"] > 10
for column in variances:
    assert abs(variances[column].loc[1] / variances[column].loc[16] / 16 - 1) < 0.25

# %% [markdown]
# The two agree in the mean, and the score function's variance is more than a thousand times larger; with the mean of
# $f$ subtracted from $f$ (a baseline, which leaves the estimate unbiased) still more than ten times. So one draw a row
# and step is the rule, and pyrovae reparameterizes wherever the guide's family allows. The variances fall as $1/M$, to
# within a quarter. Whether more draws pay is a question of time, since $M = 16$ costs about 16 times the decoder.
#
# ## Training

# %%
histories = {}
for num_draws in (1, 16):
    torch.manual_seed(0)
    vae = pv.VAE(Digits())
    histories[num_draws] = pv.fit(
        vae,
        train,
        epochs=60,
        batch_size=64,
        objective=pv.objectives.ELBO(num_draws),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        validation=test,
        seed=0,
        progress=False,
    )
    print(f"M = {num_draws}")
    columns = ["epoch", "elbo", "reconstruction", "rate", "elbo_valid"]
    print(histories[num_draws][columns].iloc[[0, 9, 59]].round(2).to_string(index=False))
    if num_draws == 1:
        kept = vae
vae, history = kept, histories[1]
print(vae.guide)
assert history.elbo.iloc[-1] > history.elbo.iloc[0] + 5
best_valid = {num_draws: h.elbo_valid.max() for num_draws, h in histories.items()}
assert abs(best_valid[1] - best_valid[16]) < 1.0

# %%
figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
pv.plots.training_history(history, ax=left)
for num_draws, h in histories.items():
    right.plot(h.epoch, h.elbo_valid, label=f"M = {num_draws}")
right.set(xlabel="epoch", ylabel="ELBO, nats a row", title="Held-out rows", ylim=(-24, -17))
right.legend()
figure.savefig("03_training.png")
figure

# %% [markdown]
# Reconstruction rises fast, and the rate with it: the latents fill with what the decoder needs to know. The best
# held-out bounds with 1 and with 16 draws differ by less than a nat.
#
# ## Evaluation
#
# Evaluation is row by row. The parts add up, and the bound lies below the marginal likelihood, which importance
# sampling from the guide estimates: $p(x) = E_q[p(x, z) / q(z|x)]$.

# %%
bound = pv.elbo(vae, test, num_samples=50, seed=0)
marginal = pv.log_marginal(vae, test, num_samples=1000, seed=0)
print(bound)
print(marginal)
print(marginal.to_frame().describe().loc[["mean", "min", "max"]].round(2).to_string())
assert torch.allclose(bound.elbo, bound.reconstruction - bound.rate)
gap = float((marginal.log_marginal - bound.elbo).mean())
assert gap > 0

# %% [markdown]
# The gap between the two is $\mathrm{KL}(q(z|x)\,\|\,p(z|x))$; tutorial 02 takes it apart. The rate is what it would
# cost, in nats, to send a row's latent to someone who knows the prior. Which latents carry it?

# %%
page = pv.diagnose(vae, test, num_samples=500, seed=0)
print(page.rates.round(3).to_string(index=False))
by_entry = page.rates.rate.sum()
assert abs(by_entry - bound.rate.mean().item()) < 0.05
active = int(page.rates.active.sum())
print(f"{active} of 8 latents are active; their rates add up to {by_entry:.2f} nats")
assert active == 8

# %% [markdown]
# ## Encode, reconstruct, generate, interpolate
#
# - `encode`: the posterior means $E_q[z|x]$.
# - `reconstruct`: the mean of $p(x|z)$ at these.
# - `generate`: $z \sim p(z)$, then $x \sim p(x|z)$; `decode` gives the mean of $p(x|z)$ for any $z$.
# - Between two rows, decode the points on the line between their posterior means.

# %%
means = vae.encode(test)
again = vae.reconstruct(test)
torch.manual_seed(0)
drawn = vae.generate(8)
assert means.shape == (len(test), 8)
assert again.shape == test.shape
assert drawn.shape == (8, 64)
wrong = ((again > 0.5).float() != test).float().mean().item()
average = ((train.mean(0) > 0.5).float() != test).float().mean().item()
print(
    f"pixels that the reconstruction gets wrong: {wrong:.1%}; that the average digit gets wrong: {average:.1%}"
)
assert wrong < 0.5 * average

target = data.target[order]
neighbours = KNeighborsClassifier(5).fit(vae.encode(train), target[:1400])
accuracy = neighbours.score(means, target[1400:])
print(f"digits named rightly by 5 nearest neighbours among the posterior means: {accuracy:.0%}")
assert accuracy > 0.85

# %%
figure = Figure(figsize=(11, 8), layout="constrained")
axes = figure.subplots(2, 2)
pv.plots.reconstructions(vae, test, image_shape=(8, 8), ax=axes[0, 0])
pv.plots.samples(vae, image_shape=(8, 8), seed=0, ax=axes[0, 1])
pv.plots.interpolation(vae, test, image_shape=(8, 8), ax=axes[1, 0])
pv.plots.latent_map(means, target[1400:], ax=axes[1, 1])
figure.savefig("03_pictures.png")
figure

# %% [markdown]
# The reconstructions get fewer than half as many pixels wrong as the average digit does, with eight numbers a row.
# Points between two digits decode to digits or to something between them, because the rate has kept the posteriors near
# each other and near the prior: there are no empty places in between. And the ten classes lie apart in the latent
# space, though no label was ever used.
#
# Sources: D. P. Kingma, M. Welling, "Auto-encoding variational Bayes" (2013). D. J. Rezende, S. Mohamed, D. Wierstra,
# "Stochastic backpropagation and approximate inference in deep generative models" (2014). R. J. Williams, "Simple
# statistical gradient-following algorithms for connectionist reinforcement learning" (1992), for the score function.
