# %% [markdown]
# # Chains: what a sequence hides, what it is worth, and how it goes on
#
# A state-space model says that something moves, $z_1, z_2, \dots$, and that we see something else of it at each step,
#
# $$p(x, z) = p(z_1)\,p(x_1|z_1) \prod_{t>1} p(z_t|z_{t-1})\,p(x_t|z_t).$$
#
# The latent of a row is the whole chain. That makes importance weights useless as chains grow: a guide that is off a
# little at each step is off by a lot at the end. This tutorial declares a pendulum, trains a guide for it, and then
# goes through its chains step by step: for log p(x), for the states given all that was seen, for steps that are
# missing, and for those that are still to come. It ends with a recording of a brain.

# %%
# %matplotlib inline
import matplotlib.cbook
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import pyrovae as pv
from pyrovae.models.sequences import MarkovSequence, PaddedSequence

K, D = 2, 1

# %% [markdown]
# ## A pendulum, seen through its shadow
#
# The state is an angle and a speed, pushed about by noise; what is seen is the sine of the angle, a shadow, with noise.
# As a Pyro program the chain is one statement and what it emits another. `MarkovSequence` takes $p(z_1)$ and a function
# from $z_{t-1}$ to the distribution of $z_t$; `PaddedSequence.emitted` one from $z_t$ to that of $x_t$.


# %%
def swing(z, step=0.25):
    """p(z_t | z_{t-1}): angle and speed of a damped pendulum, a quarter of a second later."""
    angle, speed = z.unbind(-1)
    later = 0.95 * speed - step * 4 * torch.sin(angle)
    return dist.Normal(torch.stack([angle + step * later, later], -1), torch.tensor([0.05, 0.2])).to_event(1)


def shadow(z):
    """p(x_t | z_t)."""
    return dist.Normal(torch.sin(z[..., :1]), 0.2).to_event(1)


def model(x):
    with pyro.plate("rows", len(x)):
        start = dist.Normal(torch.zeros(K), torch.tensor([0.6, 1.0])).to_event(1)
        z = pyro.sample("z", MarkovSequence(start, swing, x.shape[1]))
        pyro.sample("x", PaddedSequence.emitted(shadow, z), obs=x)


def pendulums(count, num_steps, seed):
    torch.manual_seed(seed)
    start = dist.Normal(torch.zeros(count, K), torch.tensor([0.6, 1.0])).to_event(1)
    z = MarkovSequence(start, swing, num_steps).sample()
    return z, shadow(z).sample()


T, H = 40, 12
train = pendulums(400, T, seed=1)[1]
truth, whole = pendulums(60, T + H, seed=2)
test, future = whole[:, :T], whole[:, T:]

# %% [markdown]
# ## A guide with the structure of the posterior
#
# Given the past state, what comes after says where the chain goes: $q(z_t|z_{t-1}, x_t, \dots, x_T)$. `MarkovPosterior`
# has this structure, with a recurrent network that reads the row from its end. `missing=True` lets the network read
# rows that lack steps, so a tenth of the training steps are taken away. Everything else is as in the tutorials before.

# %%
torch.manual_seed(0)
train[torch.rand(train.shape[:2]) < 0.1] = torch.nan
network = pv.nn.GRU(D, 32, past=True, future=True, missing=True)
step = pv.guides.DiagonalNormal(pv.nn.MLP(K + network.out_features, (K, K), hidden=[32]))
vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.MarkovPosterior(network, step, K)), example=train)
history = pv.fit(
    vae,
    train,
    epochs=20,
    batch_size=50,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
    seed=0,
    progress=False,
)
print(f"the ELBO went from {history.elbo.iloc[0]:.1f} to {history.elbo.iloc[-1]:.1f} nats a row")

# %% [markdown]
# ## What the sequences are worth
#
# `log_marginal` weighs whole chains by default. `SequentialMonteCarlo` lets particles go from step to step: proposed by
# the guide's steps or the model's transitions (here half of them each), weighed by what the step adds, resampled where
# few of them carry the weight. Its mean is just as unbiased for $p(x)$; the draws are split into five independent runs,
# and the error is that among them.

# %%
by_step = pv.SequentialMonteCarlo(transition_share=0.5)
weighed = pv.log_marginal(vae, test, num_samples=3000, seed=0)
sequential = pv.log_marginal(vae, test, num_samples=3000, method=by_step, seed=0)
bootstrap = pv.log_marginal(
    vae, test, num_samples=5000, method=pv.SequentialMonteCarlo(transition_share=1.0), seed=0
)
for name, result in {"whole chains": weighed, "by step": sequential, "transitions": bootstrap}.items():
    print(f"{name:13}{result}")
assert sequential.verdict == "good"
assert weighed.verdict == "poor"
assert abs(float(sequential.log_marginal.mean() - bootstrap.log_marginal.mean())) < 0.3

# %% [markdown]
# The last line proposes from the model's own transitions alone and takes more particles: a check that owes nothing to
# the network. Whole chains are several nats short, and their verdict says not to believe them. The effective sample
# size by step says where a row was surprising:

# %%
figure = Figure(figsize=(7, 2.4), layout="constrained")
ax = figure.subplots()
ax.plot(sequential.step_ess[:6].T)
ax.set(xlabel="step", ylabel="effective particles of 3000", ylim=(0, 3000))
figure.savefig("17_by_step.png")
figure

# %% [markdown]
# ## States over time
#
# Draws of `sample_posterior(..., method=)` are whole chains given all observations, traced back through the particles.
# `to_arviz` hands them on with the steps as a dim. Here a gap of ten steps is cut into one row: nothing is filled in,
# the chain goes through it on its own, and the band is wide there.

# %%
gap = test[:1].clone()
gap[:, 14:24] = torch.nan
tree = pv.to_arviz(
    vae,
    gap,
    num_samples=200,
    method=by_step,
    dims={"z": ["step", "part"]},
    coords={"part": ["angle", "speed"]},
    seed=0,
)
band = tree.posterior["z"].sel(row=0).quantile([0.05, 0.95], dim=("chain", "draw"))
figure = Figure(figsize=(8, 4), layout="constrained")
for ax, part, known in zip(
    figure.subplots(2, 1, sharex=True), ("angle", "speed"), truth[0, :T].T, strict=True
):
    low, high = band.sel(part=part).values
    ax.fill_between(range(T), low, high, alpha=0.3, label="nine chains in ten")
    ax.plot(known, "k", lw=1, label="as it was")
    ax.axvspan(14, 23, color="grey", alpha=0.15, label="not seen")
    ax.set_ylabel(part)
ax.set_xlabel("step")
ax.legend(loc="lower right", fontsize=8)
figure.savefig("17_states.png")
widths = (band.sel(quantile=0.95) - band.sel(quantile=0.05)).sel(part="angle").values
assert widths[16:22].mean() > 1.3 * widths[:14].mean()
figure

# %% [markdown]
# ## What comes next
#
# `forecast` lets the particles of the last step go on. Intervals that say 90 % should hold nine in ten of what then
# happened, over many rows:

# %%
ahead = pv.forecast(vae, test, steps=H, method=by_step, seed=0)
low, high = ahead.interval(0.9)
inside = ((low <= future) & (future <= high)).double()
print(f"{inside.mean():.1%} of {inside.numel()} future steps lie in their interval of 90 %")
assert 0.86 < inside.mean() < 0.94
print(ahead.to_frame().head(3))

figure = Figure(figsize=(8, 2.6), layout="constrained")
for ax, row in zip(figure.subplots(1, 3, sharey=True), (1, 2, 3), strict=True):
    ax.plot(range(T - 20, T), test[row, -20:], "k.-", ms=3, lw=0.8)
    ax.plot(range(T, T + H), future[row], "k.", ms=3)
    ax.fill_between(range(T, T + H), low[row, :, 0], high[row, :, 0], alpha=0.3)
    ax.set_xlabel("step")
figure.savefig("17_forecasts.png")
figure

# %% [markdown]
# ## Against an exact answer
#
# Where the chain is linear and Gaussian a Kalman filter gives log p(x) exactly. `LinearGaussianChain` is that model,
# and its posterior is a guide. Made a quarter too wide at each step, that guide is good, and yet weights of whole
# chains fall behind as they grow: the error of the particles grows slowly.


# %%
class TooWide(torch.nn.Module):
    """The exact posterior's steps, each a quarter too wide."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def posterior(self, x):
        exact = self.chain.posterior(x)

        def wider(step):
            return dist.MultivariateNormal(step.loc, scale_tril=1.25 * step.scale_tril)

        return MarkovSequence(
            wider(exact.initial), lambda *now: wider(exact.transition(*now)), x.shape[1], exact.inputs
        )


torch.manual_seed(0)
chain = pv.models.LinearGaussianChain(2, 3).requires_grad_(False)
wide = pv.VAE(chain, pv.guides.ExactGuide(TooWide(chain)), example=torch.zeros(5, 10, 3))
errors = {"whole chains": [], "by step": []}
lengths = (20, 60, 180)
for num_steps in lengths:
    wide.rows(torch.zeros(8, num_steps, 3))  # another length than before is fine
    x = wide.generate(8, seed=1)
    exact = chain.log_marginal(x)
    for name, method in zip(errors, (pv.ImportanceSampling(), pv.SequentialMonteCarlo()), strict=True):
        found = pv.log_marginal(wide, x, num_samples=500, method=method, seed=0).log_marginal
        errors[name].append(float((found - exact).abs().mean()))
figure = Figure(figsize=(4.5, 3), layout="constrained")
ax = figure.subplots()
for name, found in errors.items():
    ax.loglog(lengths, found, "o-", label=name)
    print(f"{name:13}" + "".join(f"{error:7.2f}" for error in found) + " nats off")
ax.set(xlabel="steps", ylabel="error of log p(x), nats")
ax.legend()
figure.savefig("17_errors.png")
assert errors["by step"][-1] < errors["whole chains"][-1] / 3
figure

# %% [markdown]
# ## A brain
#
# matplotlib ships four channels of an electroencephalogram, 800 samples. A linear-Gaussian chain of eight states is
# trained on windows of the first three quarters. Under `ExactGuide` the ELBO is log p(x) itself, so training maximizes
# the likelihood. Then it is asked for what comes next in the last quarter.

# %%
with matplotlib.cbook.get_sample_data("eeg.dat") as file:
    eeg = torch.as_tensor(np.fromfile(file, dtype=float).reshape(800, 4)).float()
WINDOW, AHEAD = 40, 6
seen = eeg[:600].unfold(0, WINDOW, 10).mT.contiguous()
later = eeg[600:].unfold(0, WINDOW + AHEAD, 6).mT.contiguous()

torch.manual_seed(0)
brain = pv.models.LinearGaussianChain(8, 4)
brain_vae = pv.VAE(brain, pv.guides.ExactGuide(brain), example=seen)
history = pv.fit(
    brain_vae,
    seen,
    epochs=60,
    batch_size=len(seen),
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-2),
    compile=False,
    seed=0,
    progress=False,
)
print(f"-log p(x) went from {history.loss.iloc[0]:.0f} to {history.loss.iloc[-1]:.0f} nats a window")

ahead = pv.forecast(brain_vae, later[:, :WINDOW], steps=AHEAD, seed=0)
low, high = ahead.interval(0.9)
inside = ((low <= later[:, WINDOW:]) & (later[:, WINDOW:] <= high)).double()
error = float((ahead.mean - later[:, WINDOW:]).square().mean().sqrt())
naive = float((later[:, WINDOW - 1 : WINDOW] - later[:, WINDOW:]).square().mean().sqrt())
print(f"{inside.mean():.0%} in intervals of 90 %; error {error:.2f}, of going on as it is {naive:.2f}")
assert error < 0.9 * naive
assert inside.mean() > 0.75

figure = Figure(figsize=(8, 3.6), layout="constrained")
for channel, ax in enumerate(figure.subplots(2, 2, sharex=True).flat):
    ax.plot(range(WINDOW), later[4, :WINDOW, channel], "k", lw=0.8)
    ax.plot(range(WINDOW, WINDOW + AHEAD), later[4, WINDOW:, channel], "k.", ms=4)
    ax.fill_between(
        range(WINDOW, WINDOW + AHEAD), low[4, :, channel], high[4, :, channel], alpha=0.3, color="C1"
    )
    ax.set_title(f"channel {channel + 1}", fontsize=9)
figure.savefig("17_eeg.png")
figure

# %% [markdown]
# Intervals of the model's own chains hold what they say; of a recording they hold a little less, for the model is not
# the brain's and was learned from a few seconds of it. A deep Markov model, `pv.models.DeepMarkovModel`, trains by the
# ELBO or by `pv.objectives.FIVO`, the bound that goes with the particles.
#
# All of this rests on a chain in which the next state depends on the one before, and what a step emits on its state
# alone. Controls that push the chain are context by step, `pv.fit(vae, (x, lengths, controls))`, and are given for the
# steps to come too when a forecast is asked for.
