"""Names that users give dims and sites in what ArviZ sees."""

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv


def test_users_dims_and_coords(linear):
    vae, x = linear
    tree = pv.to_arviz(
        vae,
        x,
        num_samples=3,
        dims={"x": ["feature"]},
        coords={"feature": ["a", "b", "c"], "row": list("vwxyz")},
    )
    assert tree.observed_data["x"].sel(row="w", feature="b") == x[1, 1]
    assert tree.posterior["z"].sel(row="w").sizes == {"chain": 1, "draw": 3, "z_dim_0": 2}


WRONG_NAMES = {
    "another number of dims": ({"dims": {"x": ["a", "b"]}}, r"dims gives \['a', 'b'\] for 'x', which has 1"),
    "a string for a list": ({"dims": {"x": "a"}}, "expected a list of 1"),
    "dims of no site": ({"dims": {"y": ["a"]}}, r"dims names \['y'\]: there are \['x', 'z'\]"),
    "a dim named as a site": ({"dims": {"x": ["z"]}}, "the dims of 'x' cannot be named"),
    "a dim named row": ({"dims": {"x": ["row"]}}, "the dims of 'x' cannot be named"),
    "one dim, two lengths": ({"dims": {"x": ["a"], "z": ["a"]}}, "dim 'a' has length"),
    "coords of no dim": ({"coords": {"feature": "abc"}}, "coords names the dim 'feature'"),
    "coords of another length": ({"coords": {"row": ["a"]}}, "coords gives 1 labels for 'row'"),
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_wrong_names_are_refused(case, linear):
    choices, message = WRONG_NAMES[case]
    with pytest.raises(ValueError, match=message):
        pv.to_arviz(*linear, num_samples=3, **choices)


class Awkward(torch.nn.Module):
    """Names that files and dims do not take, scalar rows, a plate inside the row, an enumerated latent, flags."""

    def model(self, x, weight):
        with pyro.plate("rows", len(x)):
            row = pyro.sample("row", dist.Normal(0.0, 1.0))
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            with pyro.plate("parts", 3, dim=-2):
                part = pyro.sample("part/z.1", dist.Normal(row, 1.0))
            location = part.sum(-2, keepdim=True) + k
            pyro.sample("draw", dist.Normal(location, weight), obs=x)

    def guide(self, x, weight):
        with pyro.plate("rows", len(x)):
            row = pyro.sample("row", dist.Normal(x / 2, 1.0))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("part/z.1", dist.Normal(row / 2, 1.0))


def test_any_site_names_and_shapes(tmp_path):
    pair = Awkward()
    vae = pv.VAE(pair.model, pair.guide)
    x, weight = torch.linspace(-1, 2, 5), torch.full((5,), 0.5)
    tree = pv.to_arviz(vae, x, weight, num_samples=6, seed=0, dims={"part/z.1": ["part"]})
    posterior = tree.posterior
    assert {name: value.dims for name, value in posterior.data_vars.items()} == {
        "row_": ("chain", "draw", "row"),
        "part.z.1": ("chain", "draw", "row", "part"),
        "k": ("chain", "draw", "row"),
    }
    assert set(np.unique(posterior["k"])) <= {0, 1}
    assert tree.log_likelihood["draw_"].dims == ("chain", "draw", "row")
    np.testing.assert_array_equal(tree.observed_data["draw_"], x)
    np.testing.assert_array_equal(tree.constant_data["context_1"], weight)
    # log p(x|z) with the enumerated latent summed out, by hand.
    z = torch.as_tensor(posterior["part.z.1"].values[0]).sum(-1)
    by_hand = torch.logsumexp(
        torch.stack(
            [dist.Normal(z + k, 0.5).log_prob(x) + torch.tensor(p).log() for k, p in enumerate([0.3, 0.7])]
        ),
        0,
    )
    np.testing.assert_allclose(tree.log_likelihood["draw_"].values[0], by_hand, rtol=1e-5)
    path = str(tmp_path / "awkward.nc")
    tree.to_netcdf(path)
    assert arviz.from_netcdf(path)["posterior"].equals(posterior)


def test_two_sites_of_one_name_are_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("a/b", dist.Normal(0.0, 1.0))
            z = pyro.sample("a.b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="would all be 'a.b' in ArviZ"):
        pv.to_arviz(pv.VAE(model), torch.zeros(4))
