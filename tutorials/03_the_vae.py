# %% [markdown]
# # The variational autoencoder
#
# A latent variable model draws a row in two steps, $z \sim p(z)$ and $x \sim p(x|z)$. Its posterior $p(z|x)$ is out of
# reach, so a guide $q(z|x)$ with one network for all rows stands in for it. Both are trained by maximizing the evidence
# lower bound
#
# $$\mathrm{ELBO}(x) = \underbrace{E_q[\log p(x|z)]}_{\text{reconstruction}} -
#   \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z))}_{\text{rate}} \le \log p(x).$$

# %%
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits

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


torch.manual_seed(0)
vae = pv.VAE(Digits())
history = pv.fit(
    vae,
    train,
    epochs=60,
    batch_size=64,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    seed=0,
    progress=False,
)
print(vae.guide)
print(history.tail(3).round(2).to_string(index=False))
assert history.elbo.iloc[-1] > history.elbo.iloc[0] + 5

# %% [markdown]
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
# The gap between the two is $\mathrm{KL}(q(z|x)\,\|\,p(z|x))$. Part of it is amortization: one network serves all rows.
# Refining each row's posterior on its own shows how much, and what remains is the family's: a diagonal normal cannot be
# the true posterior.

# %%
some = test[:50]
refined = pv.refine(vae, some, num_samples=500, seed=0)
print(refined)
amortization = float(refined.gain.mean())
remaining = float(
    (pv.log_marginal(vae, some, num_samples=5000, seed=0).log_marginal - refined.elbo_after).mean()
)
print(
    f"on {len(some)} rows: {amortization:.2f} nats of amortization gap, {remaining:.2f} nats left to the family"
)
assert bool((refined.gain >= 0).all())

# %% [markdown]
# The two steps of the model run forwards too: new digits, and the means of what a latent decodes to.

# %%
torch.manual_seed(0)
rows = vae.generate(2)
for pixels in rows.reshape(2, 8, 8):
    print("\n".join("".join("#" if pixel else "." for pixel in line) for line in pixels.tolist()), "\n")
means = vae.encode(test)
assert means.shape == (len(test), 8)
active = int((means.var(0) > 0.01).sum())
print(f"{active} of 8 latent dimensions are active")
