"""Tables to draw, as pyrovae's functions give them, and a pair with a latent that is summed out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import pyrovae as pv


def history(epochs=40):
    elbo = -20 - 60 * np.exp(-np.arange(epochs) / 3)
    table = {"epoch": np.arange(1, epochs + 1), "elbo": elbo, "elbo_valid": elbo - 1}
    return pd.DataFrame({**table, "reconstruction": elbo + 5, "rate": 5.0})


def rates(K=8, name="z"):
    rate = np.linspace(2, 0, K)
    columns = {
        "site": name,
        "dimension": range(K),
        "rate": rate,
        "verdict": np.where(rate > 0.3, "active", "collapsed"),
    }
    return pd.DataFrame(columns)


def curve():
    return pd.DataFrame(
        {
            "beta": [0.25, 0.5, 1.0, 2.0, 4.0],
            "rate": [12.0, 9.5, 7.0, 4.0, 1.5],
            "distortion": [7.0, 8.0, 9.9, 13.5, 17.5],
            "rate_error": 0.2,
            "distortion_error": 0.3,
        }
    )


def ranks(quantities=3):
    return torch.randint(0, 101, (300, quantities), generator=torch.Generator().manual_seed(0))


def three_kinds(result):
    """The same with rows whose k is good, bad and unknown (inf of many different weights)."""
    good, bad, unknown = [0.1, 0.4, -np.inf] * 8, [0.9, 0.55, np.inf], [np.inf, np.nan, np.inf]
    ess = torch.tensor([50.0] * 24 + [20.0, 20.0, 1.0] + [50.0] * 3).double()
    return replace(result, khat=torch.tensor(good + bad + unknown).double(), ess=ess, num_samples=100)


def groups(x):
    """The sign of a row's mean by group, summed out, and two scalar latents."""
    with pyro.plate("rows", len(x)):
        group = pyro.sample("group", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
        shift = pyro.sample("shift", dist.Normal(torch.tensor(0.0), 0.3))
        scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), 0.1))
        mean = (4 * group - 2 + shift).unsqueeze(-1) * torch.ones(4)
        pyro.sample("x", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1), obs=x)


def guide_of_groups(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("shift", dist.Normal(0.1 * x.mean(1), 0.2))
        pyro.sample("scale", dist.LogNormal(0.05 * x.std(1), 0.1))


def of_groups():
    """The pair of both."""
    return pv.VAE(groups, guide_of_groups)


def labels_of(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]
