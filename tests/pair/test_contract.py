"""A catalogue of wrong programs and wrong data: each raises, before any training, and says what to do."""

import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule
from torch import nn

import pyrovae as pv
from pyrovae.pair.contract import PROBE_ROWS
from tests.pairs import PAIRS, binary_rows, composed

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


def good_model(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 3]).to_event(1), obs=x
        )


def good_guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def model_without_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(1), obs=x)


def model_with_second_plate(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("again", len(x)):
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 3]).to_event(1), obs=x
        )


def model_with_nested_plate(x):
    with pyro.plate("rows", len(x)), pyro.plate("rows too", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 3]).to_event(1), obs=x
        )


def model_with_fixed_plate(x):
    with pyro.plate("rows", 128):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 3]).to_event(1))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def model_with_inner_subsampling(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("features", 3, subsample_size=2, dim=-2) as index:
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.T[index])


def model_without_event(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0), obs=x)


def model_without_observation(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def model_without_latents(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)


def model_of_other_size(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


def model_of_broadcast_row(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x[:, :1]
        )


def model_with_obs_mask(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x, obs_mask=x[:, 0] > 0)


def model_of_coupled_rows(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = z - z.mean(-2, keepdim=True)
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x
        )


def guide_of_coupled_rows(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((x - x.mean(0))[:, :2], 1.0).to_event(1))


def model_of_rows_at_dim_2(x):
    with pyro.plate("rows", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("doses", 3, dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_that_forgets(x):
    with pyro.plate("rows", len(x)):
        pass


def guide_with_more(x):
    good_guide(x)
    with pyro.plate("rows_", len(x)):
        pyro.sample("w", dist.Normal(x[:, 0], 1.0))


def guide_of_a_coin(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("coin", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def guide_of_a_normal_above(x):
    with pyro.plate("rows", len(x)):
        u = pyro.sample("u", dist.Normal(x[:, :2], 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0).to_event(1))


def guide_of_more_than_it_places(x):
    with pyro.plate("rows", len(x)):
        u = pyro.sample("u", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u[..., :2], event_dim=1))


def guide_of_a_point_before(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Delta(x[:, :2], event_dim=1))
        pyro.sample("u", dist.Normal(x[:, :2], 1.0).to_event(1), infer={"is_auxiliary": True})


def guide_of_other_size(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def guide_that_observes(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)


def guide_without_plate(x):
    pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(2))


def guide_of_other_signature(x, y):
    good_guide(x)


def guide_of_a_table_by_place(x):
    """All entries are the same at first, so that no draw or density tells them apart."""
    loc = pyro.param("loc", torch.zeros(12, 2))
    with pyro.plate("rows", 12, subsample_size=len(x)) as index:
        pyro.sample("z", dist.Normal(loc[index], 1.0).to_event(1))


SCALES = nn.Embedding(12, 2)


def guide_of_a_table_of_scales(x):
    """And reads x, too."""
    with pyro.plate("rows", len(x)) as index:
        scale = pyro.module("scales", SCALES)(index).exp()
        pyro.sample("z", dist.Normal(x[index, :2], scale).to_event(1))


def model_of_a_table_by_place(x):
    offset = torch.linspace(0, 1, 12)
    with pyro.plate("rows", 12, subsample_size=len(x)) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = z.sum(-1, keepdim=True).expand([*z.shape[:-1], 3])
        pyro.sample("x", dist.Normal(mean + offset[index].unsqueeze(-1), 1.0).to_event(1), obs=x)


WRONG = {
    "model without plate": (
        model_without_plate,
        good_guide,
        "site 'z' of the model stands outside a row plate",
    ),
    "guide without plate": (
        good_model,
        guide_without_plate,
        "site 'z' of the guide stands outside a row plate",
    ),
    "second plate": (model_with_second_plate, good_guide, "second batch plate at dim -1: 'rows'.*'again'"),
    "nested plate": (
        model_with_nested_plate,
        good_guide,
        "lies in a second batch plate, 'rows too' at dim -2",
    ),
    "rows at dim -2": (model_of_rows_at_dim_2, None, "rows in plate 'rows' at dim -2: rows go to dim -1"),
    "inner subsampling": (
        model_with_inner_subsampling,
        good_guide,
        "'features' at dim -2 of the model is subsampled",
    ),
    "no to_event": (model_without_event, good_guide, r"(?s)failed on its first rows.*with \.to_event\(1\)"),
    "no observation": (model_without_observation, good_guide, "observes nothing.*obs=x"),
    "no latents": (model_without_latents, good_guide, "the model has no latents"),
    "other event": (model_of_other_size, good_guide, r"'x' has event shape \(1,\).*rows of shape \(3,\)"),
    "broadcast row": (
        model_of_broadcast_row,
        good_guide,
        r"'x' has event shape \(3,\).*rows of shape \(1,\)",
    ),
    "forgotten latent": (good_model, guide_that_forgets, "the guide forgets the latent 'z'"),
    "unknown latent": (good_model, guide_with_more, "the guide samples 'w', which the model does not know"),
    "latent of other size": (good_model, guide_of_other_size, r"'z' has event shape \(2,\).*shape \(3,\)"),
    "observing guide": (good_model, guide_that_observes, "the guide observes 'x'"),
    "obs_mask": (model_with_obs_mask, good_guide, "uses obs_mask=.*x_unobserved.*config_enumerate"),
    "coupled rows": (
        model_of_coupled_rows,
        good_guide,
        "'x' of the model in one row depends on the other rows",
    ),
    "coupling guide": (
        good_model,
        guide_of_coupled_rows,
        "'z' of the guide in one row depends on the other rows",
    ),
    "auxiliary coin": (
        good_model,
        guide_of_a_coin,
        r"auxiliary sites \('coin'\) have 1 .* as dist.Delta \(none\) have 0",
    ),
    "auxiliary normal": (
        good_model,
        guide_of_a_normal_above,
        "have 2 .* have 0.*with the auxiliary summed out",
    ),
    "auxiliary of more": (
        good_model,
        guide_of_more_than_it_places,
        r"have 3 .* \('z'\) have 2.*one to one, .*dist.Delta",
    ),
    "auxiliary after a point": (good_model, guide_of_a_point_before, r"have 2 .* \(none\) have 0"),
    "other signature": (
        good_model,
        guide_of_other_signature,
        r"(?s)the guide failed.*both take \(x, \*context\)",
    ),
    "guide of rows by place": (
        good_model,
        guide_of_a_table_by_place,
        r"'z' of the guide reads which rows of plate 'rows' .* amortized, .* VAE\(model\).*refine.*SVI.*context",
    ),
    "guide of scales by place": (
        good_model,
        guide_of_a_table_of_scales,
        "'z' of the guide reads which rows of plate 'rows'",
    ),
    "model of rows by place": (
        model_of_a_table_by_place,
        good_guide,
        r"'x' of the model reads which rows of plate 'rows' .*as context, model\(x, c\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", [pv.elbo, pv.log_marginal, pv.to_arviz, pv.fit])
def test_wrong_programs_raise_before_any_work(name, call):
    model, guide, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(pv.VAE(model, guide), X)


def test_a_plate_of_fixed_size():
    def model(x):
        with pyro.plate("rows", 128):
            z = pyro.sample("z", dist.Normal(torch.zeros(128), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(128))

    def guide(x):
        with pyro.plate("rows", 128):
            pyro.sample("z", dist.Normal(torch.zeros(128), 1.0))

    with pytest.raises(
        ValueError, match=r"has 128 rows at site 'z', but the batch has 7.*pyro.plate\('rows', len\(x\)\)"
    ):
        pv.elbo(pv.VAE(model, guide), X)


def test_the_good_pair_is_good():
    assert len(pv.elbo(pv.VAE(good_model, good_guide), X)) == 12


AUTOMATIC = [
    autoguide.AutoDelta,
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoIAFNormal,
    autoguide.AutoStructured,
    autoguide.AutoNormalMessenger,
]


@pytest.mark.parametrize("automatic", AUTOMATIC, ids=lambda automatic: automatic.__name__)
def test_automatic_guides_of_pyro(automatic):
    of_list = autoguide.AutoGuideList(good_model)
    of_list.append(autoguide.AutoDelta(good_model))
    for guide in (automatic(good_model), of_list):
        with pytest.raises(
            TypeError, match=r"Pyro's Auto\w+, which does not read x.*VAE\(model\).*refine.*SVI"
        ):
            pv.VAE(good_model, guide, example=X)


def test_functions_among_automatic_guides_are_what_they_are():
    guide = autoguide.AutoCallable(good_model, good_guide)
    figures = [pv.elbo(pv.VAE(good_model, g), X, seed=0).elbo for g in (guide, good_guide)]
    assert torch.equal(*figures)


@pytest.mark.parametrize("subsampled", [False, True])
def test_indices_that_pick_rows_out_of_the_data_are_let_pass(subsampled):
    """Some rows by the plate's indices and some as they are: the indices of the rows at hand are in their order."""
    encoder = nn.Linear(3, 2)

    def plate(x):
        return pyro.plate("rows", 12, subsample_size=len(x)) if subsampled else pyro.plate("rows", len(x))

    def model(x, c):
        with plate(x) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z.sum(-1, keepdim=True).expand([*z.shape[:-1], 3]) + c
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[index])

    def guide(x, c):
        pyro.module("encoder", encoder)
        with plate(x) as index:
            pyro.sample("z", dist.Normal(encoder(x.index_select(0, index)), c[:, :2].exp()).to_event(1))

    assert len(pv.elbo(pv.VAE(model, guide), X, 0.1 * X)) == 12


def test_parameters_of_each_row_by_its_number_in_the_context():
    """What the message advises: in any order of the rows, each keeps its own."""
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)) * 3

    def model(x, number):
        with pyro.plate("rows", 60, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 3.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x, number):
        loc = pyro.param("loc", torch.zeros(60))
        with pyro.plate("rows", 60, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(loc[number], 0.9))

    vae, data = pv.VAE(model, guide), (x, torch.arange(60))
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.1)  # noqa: E731
    pv.fit(vae, data, epochs=60, batch_size=20, optimizer=adam, seed=0, progress=False)
    assert torch.corrcoef(torch.stack([vae.encode(*data), x[:, 0]]))[0, 1] > 0.98


def model_of_shares(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + share, 1.0).to_event(1), obs=x)


def test_auxiliary_sites_that_latents_follow_from_one_to_one():
    """A share of three is two free numbers; what is drawn after a point may be of any family."""
    simplex = dist.transforms.StickBreakingTransform()

    def guide(x):
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", dist.Normal(x[:, :2], 1.0).to_event(1), infer={"is_auxiliary": True})
            share = simplex(u)
            log_det = simplex.log_abs_det_jacobian(u, share)
            pyro.sample("share", dist.Delta(share, log_density=-log_det, event_dim=1))
            pyro.sample("z", dist.Normal(share[..., :2], 1.0).to_event(1))

    def by_density(x):
        with pyro.plate("rows", len(x)):
            normal = dist.Normal(x[:, :2], 1.0).to_event(1)
            share = pyro.sample("share", dist.TransformedDistribution(normal, [simplex]))
            pyro.sample("z", dist.Normal(share[..., :2], 1.0).to_event(1))

    auxiliary, direct = (
        pv.log_marginal(pv.VAE(model_of_shares, g), X, num_samples=50, seed=0) for g in (guide, by_density)
    )
    torch.testing.assert_close(auxiliary.log_marginal, direct.log_marginal, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [pv.guides.families.full_normal, pv.guides.families.diagonal_normal])
@pytest.mark.parametrize("joint", [True, False])
def test_derived_guides_have_none_but_such(family, joint):
    guide = pv.guides.AutoGuide(model_of_shares, family=family, joint=joint)
    assert len(pv.elbo(pv.VAE(model_of_shares, guide), X)) == 12


# Data


def changed(x, row, value):
    x = x.clone()
    x[row, 1] = value
    return x


CALLS = [
    lambda vae, *data: pv.fit(vae, data, epochs=1, progress=False),
    pv.elbo,
    pv.log_marginal,
    pv.to_arviz,
    lambda vae, *data: vae.encode(*data),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "value, message",
    [
        (float("nan"), r"(?s)guide failed.*Of these rows x lack entries.*MissingAsZero"),
        (float("inf"), "x holds an infinite value in row 30"),
    ],
)
def test_values_that_are_not_finite(call, value, message):
    with pytest.raises(ValueError, match=message):
        call(composed(), changed(binary_rows(), 30, value))


@pytest.mark.parametrize("call", CALLS[:-1])
@pytest.mark.parametrize("row", [0, 30, 299])
def test_values_outside_the_support(call, row):
    vae = composed()
    x = binary_rows(300)
    before = [p.clone() for p in vae.parameters()]
    message = rf"row {row} of the data lies outside the support of site 'x': Bernoulli .* 0\.5\. Binarize"
    with pytest.raises(ValueError, match=message):
        call(vae, changed(x, row, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_support_is_checked_with_validation_off():
    pyro.enable_validation(False)
    with pytest.raises(ValueError, match="row 3 of the data lies outside"):
        pv.elbo(composed(), changed(binary_rows(), 3, 0.5))


def test_validation_data_are_named():
    with pytest.raises(ValueError, match="validation data: row 3 of the data lies outside"):
        pv.fit(composed(), binary_rows(), validation=changed(binary_rows(), 3, 0.5), progress=False)


@pytest.mark.parametrize("call", CALLS)
def test_rows_of_another_shape(call):
    vae = composed()
    with pytest.raises(ValueError, match=r"'x' has event shape \(6,\) in the model.*rows of shape \(5,\)"):
        call(vae, binary_rows(D=5))
    vae.rows(binary_rows())
    with pytest.raises(ValueError, match=r"x has rows of shape \[5\]: this VAE takes rows of shape \[6\]"):
        call(vae, binary_rows(D=5))


@pytest.mark.parametrize("call", CALLS)
def test_integer_images(call):
    vae = composed()
    images = torch.randint(0, 255, (20, 6), dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"x holds integers \(torch.uint8\).*x.float\(\) / 255"):
        call(vae, images)
    vae.rows(binary_rows())
    with pytest.raises(TypeError, match=r"x is torch.uint8: this VAE takes torch.float32.*x.float\(\) / 255"):
        call(vae, images)


@pytest.mark.parametrize("numbers, advice", [(torch.uint8, r"x.float\(\) / 255"), (torch.int64, "Poisson")])
def test_integers_under_a_density_of_real_numbers(numbers, advice):
    """A derived guide takes them, so that nothing else would say that pixels have not been scaled."""
    x = torch.arange(120).reshape(20, 6).to(numbers)

    def model(family, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", family(z[..., None].exp().expand(*z.shape, 6)).to_event(1), obs=x)

    vae = pv.VAE(functools.partial(model, lambda loc: dist.Normal(loc, 1.0)))
    message = rf"x holds integers \({numbers}\), which Normal of site 'x'.*{advice}"
    with pytest.warns(UserWarning, match=message) as told:
        vae.rows(x)
    assert [warning.filename for warning in told] == [__file__]
    vae.rows(x)
    pv.VAE(functools.partial(model, lambda loc: dist.Normal(loc, 1.0))).rows(x.float())
    pv.VAE(functools.partial(model, dist.Poisson)).rows(x)


def test_double_precision_where_the_networks_are_single():
    with pytest.raises(
        TypeError, match=r"x is torch.float64 and the networks are torch.float32: convert the one"
    ):
        pv.elbo(composed(), binary_rows().double())


def test_rows_of_context_that_differ():
    make, context = PAIRS["methods"]
    with pytest.raises(
        ValueError, match="x has 40 rows and context 1 has 39: each row of x needs its own context"
    ):
        pv.fit(make(), (binary_rows(), *context(39)), progress=False)


def test_context_forgotten():
    make, context = PAIRS["methods"]
    vae = make()
    with pytest.raises(ValueError, match=r"(?s)the model failed.*both take \(x, \*context\)"):
        pv.elbo(vae, binary_rows())
    vae.rows(binary_rows(), *context(40))
    with pytest.raises(ValueError, match="got 1 data arguments: this VAE takes 3"):
        pv.elbo(vae, binary_rows())


@pytest.mark.parametrize(
    "data, error, message",
    [
        (torch.zeros(0, 6), ValueError, "the data have no rows"),
        (np.zeros((0, 6)), ValueError, "the data have no rows"),
        ((), ValueError, "empty tuple"),
        (torch.tensor(3.0), ValueError, "x is a scalar"),
        ([[0.0] * 6], TypeError, "x is list: expected a tensor or a NumPy array"),
        (np.array([["a"] * 6]), TypeError, "expected numbers"),
    ],
)
def test_data_that_are_no_rows(data, error, message):
    with pytest.raises(error, match=message):
        pv.fit(composed(), data, progress=False)


def test_numpy_and_pandas_are_taken_as_rows():
    import pandas as pd

    x = binary_rows()
    reference = pv.elbo(vae := composed(), x, seed=0).elbo
    for same in (x.numpy(), x.numpy().astype(np.float64), pd.DataFrame(x.numpy())):
        assert torch.equal(pv.elbo(vae, same, seed=0).elbo, reference)
    frozen = x.numpy().copy()
    frozen.setflags(write=False)
    assert torch.equal(pv.elbo(vae, frozen, seed=0).elbo, reference)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_counts_of_fit(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: expected a whole number of at least 1"):
        pv.fit(composed(), binary_rows(), **{name: value})


def test_a_device_that_is_not_there():
    name = "cuda:99"
    with pytest.raises(ValueError, match=r"device 'cuda:99' is not there: this machine has cpu"):
        pv.fit(composed(), binary_rows(), device=name)
    with pytest.raises(ValueError, match="device 'meta' is not there"):
        pv.fit(composed(), binary_rows(), device="meta")
    with pytest.raises(ValueError, match="device 'gpu' is not there"):
        pv.fit(composed(), binary_rows(), device="gpu")


def lacking(vae, x):
    """An optimizer over some of the parameters."""
    vae.rows(x)
    return torch.optim.Adam(list(vae.parameters())[:1])


def test_an_inner_plate_as_large_as_the_probe_is_no_batch_plate():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("days", 7, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    assert len(pv.elbo(pv.VAE(model), torch.randn(20, 7))) == 20


def test_objectives_and_optimizers_of_another_kind():
    x = binary_rows()
    with pytest.raises(TypeError, match=r"or a pyro.infer.ELBO such as pyro.infer.Trace_ELBO\(\)"):
        pv.fit(composed(), x, objective="elbo")
    with pytest.raises(TypeError, match="expected a torch optimizer"):
        pv.fit(composed(), x, optimizer=lambda parameters: None)
    with pytest.raises(ValueError, match="holds 2 parameters that are not this VAE's"):
        pv.fit(composed(), x, optimizer=torch.optim.Adam(nn.Linear(2, 2).parameters()))
    for objective in (pyro.infer.JitTrace_ELBO(), pyro.infer.ReweightedWakeSleep()):
        with pytest.raises(
            TypeError, match=r"neither a jitted one \(fit traces by itself\) nor one with two losses"
        ):
            pv.fit(composed(), x, objective=objective)
    vae = PAIRS["with_param"][0]()
    with pytest.raises(
        ValueError, match="the optimizer lacks '.*', which pyro.param made at the first batch"
    ):
        pv.fit(vae, x, optimizer=lacking(vae, x))
    with pytest.raises(TypeError, match="learning_rate"):
        pv.fit(composed(), x, learning_rate=3)


def test_without_parameters_there_is_nothing_to_train():
    with pytest.raises(ValueError, match="no parameters to train"):
        pv.fit(pv.VAE(good_model, good_guide), X)


def test_sites_that_change_from_call_to_call():
    calls = []

    def model(x):
        calls.append(1)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if len(calls) > 40:
                pyro.sample("late", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    vae, x = pv.VAE(model, guide), torch.randn(10)
    pv.elbo(vae, x)
    calls.extend([1] * 40)
    with pytest.raises(
        ValueError, match=r"sites of the model change from call to call: at first .*'x', 'z'.*'late'"
    ):
        pv.elbo(vae, x)


def test_guides_that_cannot_score_what_they_did_not_draw():
    """A planar flow has no inverse in closed form."""
    flow = dist.transforms.Planar(2)

    def guide(x):
        pyro.module("flow", flow)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(x[:, :2], 1.0).to_event(1), [flow]))

    assert len(pv.elbo(pv.VAE(good_model, guide), X)) == 12


def test_rejection_samplers_do_not_look_like_coupled_rows():
    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("rate", dist.Gamma(0.3 + x, 2.0))

    assert len(pv.elbo(pv.VAE(model, guide), torch.poisson(torch.full((40,), 2.0)))) == 40


class Grouped(nn.Module):
    """A latent, and a discrete one summed out, in a plate with or without a size."""

    def __init__(self, sized):
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.shift = nn.Linear(2, 6), nn.Parameter(torch.randn(3, 2))
        self.sized = sized

    def plate(self, x):
        return pyro.plate("data", len(x)) if self.sized else pyro.plate("data")

    def forward(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Categorical(x.new_ones(len(x), 3)), infer={"enumerate": "parallel"})
            logits = self.decoder(z + self.shift[c])
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class GroupedGuide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.encoder, self.plate = pv.nn.MLP(6, (2, 2)), model.plate

    def forward(self, x):
        with self.plate(x):
            location, raw = self.encoder(x)
            pyro.sample("z", dist.Normal(location, raw.exp()).to_event(1))


@pytest.mark.parametrize("guide", [GroupedGuide, lambda model: None], ids=["by hand", "derived"])
@pytest.mark.parametrize("num_rows", [1, 9])
def test_a_plate_without_a_size_is_that_of_the_batch(guide, num_rows):
    # As Pyro's semi-supervised and conditional VAE examples have it.
    x = torch.bernoulli(torch.full((9, 6), 0.4), generator=torch.Generator().manual_seed(0))
    figures = []
    for sized in (True, False):
        model = Grouped(sized)
        vae = pv.VAE(model, guide(model), example=x)
        history = pv.fit(vae, x, epochs=2, batch_size=4, seed=0, progress=False)
        bound = pv.elbo(vae, x[:num_rows], num_samples=3, seed=1).elbo
        marginal = pv.log_marginal(vae, x[:num_rows], num_samples=20, seed=1).log_marginal
        draws = vae.sample_posterior(x[:num_rows], num_samples=4, seed=2)
        figures.append(
            [torch.tensor(history.loss), bound, marginal, *draws.values(), vae.generate(5, seed=0)]
        )
    for first, second in zip(*figures, strict=True):
        torch.testing.assert_close(first, second)


def test_a_plate_without_a_size_gives_no_rows():
    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"batch shape \[\] in plate 'data', which has no size"):
        pv.VAE(model, example=torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("totals", "words"),
    [
        ([20.0, 20.0, 20.0], r"whole numbers from 0 to 20, and this row holds 21\."),
        (
            [20.0, 20.0, 2.0],
            r"whole numbers within bounds that differ between entries, and this row holds 21, 3\.",
        ),
    ],
)
def test_what_lies_outside_is_named_with_the_bounds(totals, words):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0)).unsqueeze(-1)
            p = dist.Binomial(torch.tensor(totals), logits=z.expand(*z.shape[:-1], 3))
            pyro.sample("x", p.to_event(1), obs=x)

    x = torch.zeros(9, 3)
    x[4] = torch.tensor([20.0, 21.0, 3.0])
    with pytest.raises(ValueError, match=f"row 4 of the data .* {words}"):
        pv.fit(pv.VAE(model), x, epochs=1, progress=False)


def test_a_programs_own_mistake_is_told_as_it_is():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + forgotten, 1.0), obs=x)  # noqa: F821

    with pytest.raises(
        ValueError, match=r"(?s)NameError: name 'forgotten' .* first 7 rows of the data"
    ) as told:
        pv.VAE(model, example=torch.zeros(50))
    assert "must both take" not in str(told.value)


class Undeclared(PyroModule):
    """Events of K latents and of images, declared as far as said."""

    def __init__(self, K=3, shape=(6,), latent=1, observed=1):
        super().__init__()
        self.K, self.shape, self.latent, self.observed = K, shape, latent, observed
        self.decoder = nn.Linear(K, math.prod(shape))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), self.K), 1.0).to_event(self.latent))
            logits = self.decoder(z).reshape(*z.shape[:-1], *self.shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(self.observed), obs=x)


# Sizes that a plate of so many rows takes for its own: 1, and that of the rows that programs are tried on.
UNDECLARED = {
    "one latent": ({"K": 1, "latent": 0}, "z", 1),
    "as many latents as rows": ({"K": PROBE_ROWS, "latent": 0}, "z", 1),
    "one column": ({"shape": (1,), "observed": 0}, "x", 1),
    "as many columns as rows": ({"shape": (PROBE_ROWS,), "observed": 0}, "x", 1),
    "channels of images": ({"shape": (1, 6, 6), "observed": 2}, "x", 3),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_a_forgotten_to_event_is_found_whatever_its_size(name):
    settings, site, event_dim = UNDECLARED[name]
    model = Undeclared(**settings)
    x = torch.ones(20, *model.shape)
    told = rf"site '{site}' of the model has batch shape .*go into the event, with \.to_event\({event_dim}\)"
    with pytest.raises(ValueError, match=told):
        pv.VAE(model, example=x)
    whole = {**settings, "latent": 1, "observed": len(model.shape)}
    assert len(pv.VAE(Undeclared(**whole), example=x).encode(x)) == 20


def test_a_forgotten_to_event_of_the_guide():
    encoder = nn.Linear(6, 1)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0))

    with pytest.raises(
        ValueError, match=r"site 'z' of the guide has batch shape \[7, 7\].*with \.to_event\(1\)"
    ):
        pv.VAE(Undeclared(K=1), guide, example=torch.ones(20, 6))
