# %% [markdown]
# # Larger: compiled steps, data beyond memory, resuming, GPUs and several processes
#
# Stochastic variational inference needs a minibatch at a time: with $B$ of $N$ rows drawn at random,
#
# $$\frac{N}{B} \sum_{b=1}^{B} \nabla\,\mathrm{ELBO}(x_b)$$
#
# is an unbiased estimate of the gradient of the whole data's ELBO (Hoffman, Blei, Wang and Paisley, "Stochastic
# Variational Inference", 2013, https://jmlr.org/papers/v14/hoffman13a.html). So the size of the data is no obstacle;
# what counts is the cost of a step, where rows come from, and that a long training survives its machine. All of this
# runs here on a CPU and on scikit-learn's digits; what changes for more is an argument.

# %%
# %matplotlib inline
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import pyrovae as pv


def build():
    torch.manual_seed(0)
    return pv.VAE(
        pv.models.LatentVariableModel(
            pv.models.StandardNormal(8), pv.models.Bernoulli(pv.nn.MLP(8, 64, hidden=[128]))
        ),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(64, (8, 8), hidden=[128]))),
    )


grey = torch.as_tensor(load_digits().data / 16).float()

# %% [markdown]
# ## The engine, and a transform
#
# A Pyro program of this kind does the same tensor operations at every step. `fit` runs it once, writes them down,
# forward and backward, and from then on runs the operations without Pyro: traced. Where it saves time over the steps
# to come they are compiled as well. A program that cannot be traced (control flow that looks at values, enumeration)
# runs as plain Pyro. `history.attrs["engine"]` says what was done and why; `compile=False` asks for plain Pyro,
# `compile=True` for compilation.
#
# A `transform` is applied to each batch before it is used. Here it draws binary pixels afresh from the grey ones, so
# that no two epochs see the same rows.

# %%
histories = {}
for compile in (False, "auto"):
    histories[compile] = pv.fit(
        build(),
        grey,
        epochs=15,
        batch_size=64,
        transform=torch.bernoulli,
        compile=compile,
        seed=0,
        progress=False,
    )
    history = histories[compile]
    # The first epoch holds the tracing.
    print(f"{history.attrs['engine']}: {history.seconds[1:].mean():.3f} s an epoch after the first")
difference = (histories[False].loss - histories["auto"].loss).abs().max()
print(f"largest difference of an epoch's loss: {difference:.1e} nats")
assert histories[False].attrs["engine"].startswith("plain Pyro")
assert not histories["auto"].attrs["engine"].startswith("plain Pyro")
assert difference < 1e-3

# %% [markdown]
# The losses are those of plain Pyro, to rounding; only the time differs. (Times are of this machine, and of whatever
# else it was doing.)
#
# ## Data beyond memory
#
# `fit` takes a `numpy.memmap`, of which it reads the rows of each batch, or a torch `Dataset` or `DataLoader`, such
# as one whose workers decode files. Bytes on disk become pixels in the transform. For the loader it is the order of
# rows that the loader decides; everything else stays the same.

# %%
np.save("digits.npy", load_digits().data.astype(np.uint8))
on_disk = np.load("digits.npy", mmap_mode="r")
assert isinstance(on_disk, np.memmap)


def to_pixels(x):
    return torch.bernoulli(x.float() / 16)


loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(grey),
    batch_size=64,
    shuffle=True,
    generator=torch.Generator().manual_seed(0),
)
losses = {"memory": histories["auto"].loss}
for name, data, size, transform in (
    ("memmap", on_disk, 64, to_pixels),
    ("DataLoader", loader, None, torch.bernoulli),
):
    losses[name] = pv.fit(
        build(), data, epochs=15, batch_size=size, transform=transform, seed=0, progress=False
    ).loss
for name, loss in losses.items():
    print(f"{name:12}loss of the last epoch {loss.iloc[-1]:.4f}")
assert abs(losses["memmap"].iloc[-1] - losses["memory"].iloc[-1]) < 1e-3
assert abs(losses["DataLoader"].iloc[-1] - losses["memory"].iloc[-1]) < 0.5

# %% [markdown]
# From disk or from memory, the same seed gives the same training. The loader shuffles by its own generator, and so
# comes to about the same loss by other batches.
#
# ## Killed, and resumed to the bit
#
# With `checkpoint=` the training is saved, after each epoch and, here, each 20 steps: parameters, optimizer,
# schedules, random states, the place within the epoch. The same call with `resume=True` goes on from there, or begins
# where there is nothing yet. Resumed exactly means that a killed training ends with the numbers of one that was not.
#
# To see it, the training is a script of its own, which kills itself with SIGKILL at step 130, without a chance to
# clean up, if it is told to.

# %%
SCRIPT = """
import os, signal, sys
import numpy as np, torch, pyrovae as pv

class Failure(pv.callbacks.Callback):
    def on_step(self, training):
        if "fail" in sys.argv and training.step == 130:
            os.kill(os.getpid(), signal.SIGKILL)

def to_pixels(x):
    return torch.bernoulli(x.float() / 16)

torch.manual_seed(0)
vae = pv.VAE(
    pv.models.LatentVariableModel(
        pv.models.StandardNormal(8), pv.models.Bernoulli(pv.nn.MLP(8, 64, hidden=[128]))
    ),
    pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(64, (8, 8), hidden=[128]))),
)
history = pv.fit(
    vae,
    np.load("digits.npy", mmap_mode="r"),
    epochs=8,
    batch_size=64,
    transform=to_pixels,
    seed=0,
    checkpoint=pv.Checkpoint(sys.argv[1] + ".training", every_steps=20),
    resume=True,
    callbacks=[Failure()],
    progress=False,
)
vae.save(sys.argv[1] + ".vae")
history.to_csv(sys.argv[1] + ".csv", index=False)
"""
Path("train.py").write_text(SCRIPT)


def run(*arguments):
    return subprocess.run([sys.executable, "train.py", *arguments]).returncode


print("undisturbed:", run("whole"))
print("killed:", run("killed", "fail"), "- and is there a result?", Path("killed.vae").exists())
assert not Path("killed.vae").exists()
print("the same call again:", run("killed"))

whole, killed = (build().load(f"{name}.vae") for name in ("whole", "killed"))
same = [torch.equal(a, b) for a, b in zip(whole.parameters(), killed.parameters(), strict=True)]
print(f"{sum(same)} of {len(same)} parameters are equal to the bit")
assert all(same)

# %% [markdown]
# The history is whole too: its epochs before the kill, and those after, with the same losses.

# %%
import pandas as pd

tables = {name: pd.read_csv(f"{name}.csv") for name in ("whole", "killed")}
assert (tables["whole"].loss == tables["killed"].loss).all()
figure = Figure(figsize=(6, 3.2), layout="constrained")
ax = figure.subplots()
ax.plot(tables["whole"].epoch, tables["whole"].loss, linewidth=5, alpha=0.3, label="undisturbed")
ax.plot(
    tables["killed"].epoch, tables["killed"].loss, "k.-", linewidth=1, label="killed at step 130 and resumed"
)
ax.axvline(0.5 + 130 / -(-len(grey) // 64), color="gray", linestyle=":", linewidth=0.8)
ax.set(xlabel="epoch", ylabel="loss, nats per row")
ax.legend(frameon=False, loc="upper right")
figure.savefig("12_resumed.png")
figure

# %% [markdown]
# ## GPUs and several processes
#
# None of the following needs another program. On a machine with a GPU:
#
#     pv.fit(vae, data, device="cuda")                             # data at hand are kept on the device
#     pv.fit(vae, data, device="cuda", precision="bf16-mixed")     # products in 16 bits, densities in 32
#
# Several processes train together, each on its share of every batch; gradients are summed before each step, so that
# batch size and learning rate mean the same on any number of them. In a script, under `if __name__ == "__main__":`,
#
#     pv.fit(vae, data, devices=2)
#
# starts them, and started by torchrun the same script needs not even that argument:
#
#     torchrun --nproc-per-node=2 train.py whole
#
# (this needs lightning-fabric, `pip install "pyrovae[processes]"`). Each process draws its own noise, so two
# processes give another training than one, of the same distribution; and a checkpoint says how many it belongs to.
# For figures see the tables under `benchmarks/results`.
