"""Tables of pandas and SciPy: every kind of column is numbers or refused by name; a VAE keeps to a frame's columns."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import sparse

import pyrovae as pv
from pyrovae.arrays import OnDisk, Sparse
from pyrovae.data import Rows
from pyrovae.models import Bernoulli, LatentVariableModel, NegativeBinomial, Normal, Poisson, StandardNormal

N = 40
NAMES = ["age", "height", "income"]


def of_normals(width=3):
    torch.manual_seed(0)
    return pv.VAE(LatentVariableModel(StandardNormal(2), Normal(pv.nn.MLP(2, (width, width)))), seed=0)


def of_bits():
    torch.manual_seed(0)
    return pv.VAE(LatentVariableModel(StandardNormal(2), Bernoulli(pv.nn.MLP(2, 3))), seed=0)


def table():
    values = np.random.default_rng(0).normal(size=(N, 3)) * [1, 10, 100]
    return pd.DataFrame(values, columns=NAMES)


def trained(make, data, **settings):
    vae = make()
    given = {"epochs": 2, "batch_size": 16, "seed": 0, "progress": False, "compile": False} | settings
    return vae, pv.fit(vae, data, **given)


# What columns hold

FOUR = np.arange(4)
NUMBERS = {
    "truth values beside numbers": (
        pd.DataFrame({"a": FOUR / 2, "b": FOUR > 1}),
        torch.float32,
    ),
    "truth values": (pd.DataFrame({"a": FOUR > 1, "b": FOUR > 2}), torch.float32),
    "16 bits": (pd.DataFrame({"a": FOUR.astype("uint16"), "b": FOUR.astype("uint16")}), torch.int32),
    "32 bits": (FOUR.astype("uint32"), torch.int64),
    "64 bits": (FOUR.astype("uint64"), torch.int64),
    "a tensor of 16 bits": (torch.arange(4).to(torch.uint16), torch.int32),
    "whole and other numbers": (pd.DataFrame({"a": FOUR, "b": FOUR / 2}), torch.float32),
    "nullable": (
        pd.DataFrame({"a": pd.array(FOUR, "Int64"), "b": pd.array(FOUR > 1, "boolean")}),
        torch.int64,
    ),
    "nullable fractions": (pd.DataFrame({"a": pd.array(FOUR / 2, "Float32")}), torch.float32),
    "sparse with NaN as filler": (
        pd.DataFrame({"a": pd.arrays.SparseArray(FOUR / 2), "b": FOUR}),
        torch.float32,
    ),
    "sparse": (pd.get_dummies(pd.Series(list("abca")), sparse=True), torch.float32),
    "a column": (pd.Series(FOUR, name="a"), torch.int64),
    "a nullable array": (pd.array(FOUR, "Int64"), torch.int64),
    "SciPy's, by columns": (sparse.csc_matrix(np.diag(FOUR / 2)), torch.float32),
    "SciPy's of 16 bits": (sparse.coo_array(np.diag(FOUR.astype("uint16"))), torch.int32),
    "other byte order": (FOUR.astype(">f4"), torch.float32),
}


def dense(data):
    if sparse.issparse(data):
        data = data.toarray()
    if isinstance(data, torch.Tensor):
        return data.double()
    return torch.tensor(pd.DataFrame(data).astype(float).to_numpy().reshape(np.shape(data)))


@pytest.mark.parametrize("name", NUMBERS)
def test_every_kind_of_number_becomes_a_tensor(name):
    data, dtype = NUMBERS[name]
    rows = Rows(data)
    found = rows.take(slice(None)).x
    assert found.dtype == rows.x.dtype == dtype
    assert torch.equal(found.double(), dense(data))
    if name == "sparse" or "SciPy" in name:
        assert isinstance(rows.x, Sparse)
    some = torch.tensor([3, 1])
    assert torch.equal(rows.take(some).x, found[some])


def test_masks_in_context_stay_truth_values():
    frame = table()
    x, mask = Rows((frame > 0, frame > 0)).take(slice(None)).arguments
    assert (x.dtype, mask.dtype) == (torch.float32, torch.bool)


KIND = pd.Categorical(["p", "q", "p", "p"])
NO_NUMBERS = {
    "categories": (
        KIND,
        r"'b' \(categories\): pd.get_dummies\(frame, columns=\['b'\]\).*frame\['b'\].cat.codes",
    ),
    "text": (list("pqrs"), r"'b' \(text or objects\): .*pd.to_numeric\(frame\['b'\]\)"),
    "objects": ([1, None, "x", 2], r"'b' \(text or objects\)"),
    "dates": (pd.date_range("2020", periods=4), r"'b' \(dates\): \(frame\['b'\] - start\)"),
    "dates of a zone": (pd.date_range("2020", periods=4, tz="UTC"), r"'b' \(dates\)"),
    "time spans": (pd.to_timedelta(FOUR, "D"), r"'b' \(time spans\): frame\['b'\].dt.total_seconds"),
    "complex numbers": (FOUR * 1j, r"'b' \(complex numbers\)"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_columns_without_numbers_are_named_with_the_remedy(name):
    values, message = NO_NUMBERS[name]
    with pytest.raises(TypeError, match=r"x has columns that hold no numbers"):
        Rows(pd.DataFrame({"a": FOUR, "b": values}))
    with pytest.raises(TypeError, match=message):
        Rows(pd.DataFrame({"a": FOUR, "b": values}))
    with pytest.raises(TypeError, match="context 1, the column 'b', is .*: expected numbers"):
        Rows((FOUR, pd.Series(values, name="b")))


def test_the_remedies_work():
    frame = pd.DataFrame({"a": FOUR / 2, "kind": KIND})
    assert Rows(pd.get_dummies(frame, columns=["kind"])).take(slice(None)).x.shape == (4, 3)
    assert Rows(frame["kind"].cat.codes).x.tolist() == [0, 1, 0, 0]
    spans = pd.Series(pd.date_range("2020", periods=4))
    assert Rows((spans - spans[0]).dt.total_seconds()).x[1] == 24 * 3600


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            table().assign(age=np.inf, income=-np.inf),
            "x holds an infinite value in row 0, columns 'age', 'income' ",
        ),
        (
            table().replace({"income": {table().income[7]: np.inf}}),
            "an infinite value in row 7, column 'income'",
        ),
        (sparse.csr_matrix([[0.0, 1.0], [np.inf, 0.0]]), "x holds an infinite value in row 1"),
        (pd.DataFrame(index=FOUR), "x is a data frame without columns"),
        (np.array([2**63, 1], "uint64"), "whole numbers beyond"),
    ],
)
def test_values_that_cannot_be_used_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        Rows(data)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": 0}),
        pd.DataFrame({"a": pd.array([True, None], "boolean"), "b": 0}),
        pd.DataFrame({"a": [1.0, None], "b": 0}),
        sparse.csr_matrix([[1.0, 0.0], [np.nan, 0.0]]),
    ],
)
def test_what_a_frame_does_not_have_is_absent(data):
    found = Rows(data)
    assert found.absent
    assert torch.equal(found.take(slice(None)).x.isnan(), torch.tensor([[False, False], [True, False]]))


def test_sparse_tensors_get_a_remedy():
    with pytest.raises(TypeError, match=r"x is a sparse tensor: expected a dense one, x.to_dense\(\)"):
        Rows(torch.eye(3).to_sparse())


@pytest.mark.parametrize("row", [3, 30])
def test_values_outside_a_support_are_named_by_column(row):
    frame = (table() > 0).astype(float)
    frame.loc[row, "height"] = 0.3
    with pytest.raises(ValueError, match=rf"row {row} .* this row holds 0.3 in the column 'height'"):
        trained(of_bits, frame)
    with pytest.raises(ValueError, match=rf"row {row} .* this row holds 0.3 in the column 'height'"):
        pv.elbo(of_bits(), frame)
    with pytest.raises(ValueError, match=rf"row {row} .* this row holds 0.3\. "):
        trained(of_bits, frame.to_numpy())


def test_a_model_that_observes_columns_as_sites_of_their_own():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "measures", dist.Normal(z[..., None], 100.0).expand([*z.shape, 2]).to_event(1), obs=x[:, :2]
            )
            pyro.sample("paid", dist.Poisson(z.exp()), obs=x[:, 2])

    frame = table().assign(income=1.0)
    frame.loc[3, "income"] = -2.0
    with pytest.raises(ValueError, match=r"row 3 .*site 'paid'.* holds -2 in the column 'income'"):
        pv.elbo(pv.VAE(model), frame)


@pytest.mark.parametrize("form", [lambda f: f, lambda f: f.to_numpy(), lambda f: f.astype(float)])
def test_truth_values_are_bits(form):
    bits = table() > 0
    _, expected = trained(of_bits, torch.tensor(bits.to_numpy()).float())
    _, history = trained(of_bits, form(bits))
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))


def test_tensors_of_truth_values_get_the_remedy():
    with pytest.raises(TypeError, match=r"x holds truth values \(torch.bool\) where Bernoulli .*\.float\(\)"):
        pv.elbo(of_bits(), torch.tensor(table().to_numpy() > 0))


def test_a_single_column_where_a_row_is_a_vector():
    with pytest.raises(
        ValueError, match=r"single number a row.*x\[:, None\], of a data frame frame\[\[name\]\]"
    ):
        trained(lambda: of_normals(1), table()["age"])
    trained(lambda: of_normals(1), table()[["age"]])


# Sparse matrices


def counts():
    torch.manual_seed(0)
    return pv.VAE(LatentVariableModel(StandardNormal(2), Poisson(pv.nn.MLP(2, 30))), seed=0)


def few_counts():
    values = np.random.default_rng(0).poisson(0.3, size=(N, 30))
    return values.astype(float)


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_sparse_counts_train_as_dense_ones_and_stay_sparse(make):
    x = make(few_counts())
    assert isinstance(Rows(x).x, Sparse)
    settings = {"validation": x}
    vae, history = trained(counts, x, **settings)
    dense_vae, expected = trained(counts, few_counts(), validation=few_counts())
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    found, wanted = (
        pv.log_marginal(v, data, num_samples=5, seed=0).log_marginal
        for v, data in ((vae, x), (dense_vae, few_counts()))
    )
    torch.testing.assert_close(found, wanted)


def test_totals_of_a_table_as_library_sizes():
    frame = pd.DataFrame(few_counts(), columns=[f"gene {d}" for d in range(30)])

    def make():
        torch.manual_seed(0)
        likelihood = NegativeBinomial(pv.nn.MLP(2, 30), 1.0, library_size=True)
        return pv.VAE(LatentVariableModel(StandardNormal(2), likelihood))

    total = 1 + frame.sum(axis=1).rename("total")
    trained(make, (frame, total.to_frame()))
    with pytest.raises(ValueError, match=r"library size .* of a data frame as frame\[\[name\]\]"):
        trained(make, (frame, total))


# The columns of a frame are remembered

OTHERS = {
    "reordered": (
        lambda f: f[["height", "age", "income"]],
        r"x has its columns in another order: 'height' stands where 'age' is expected. Give frame\[vae.columns\]",
    ),
    "missing": (
        lambda f: f[["age", "height"]],
        r"x does not have the columns of this VAE: it lacks 'income'. It takes vae.columns, 'age', 'height', 'income'",
    ),
    "one more": (
        lambda f: f.assign(id=1.0),
        r"it has 'id', which this VAE does not know. Give frame\[vae.columns\]",
    ),
    "renamed": (
        lambda f: f.rename(columns={"age": "Age"}),
        r"it lacks 'age' and has 'Age', which this VAE does not know. It takes vae.columns",
    ),
}

CARRIERS = {
    "itself": lambda vae, path: vae,
    "a file": lambda vae, path: (vae.save(path / "vae"), of_normals().load(path / "vae"))[1],
    "a file read after tensors": lambda vae, path: (
        vae.save(path / "vae"),
        new := of_normals(),
        new.rows(torch.zeros(5, 3)),
        new.load(path / "vae"),
    )[1],
    "pickle": lambda vae, path: pickle.loads(pickle.dumps(vae)),
    "deepcopy": lambda vae, path: copy.deepcopy(vae),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("other", OTHERS)
def test_other_columns_are_refused_by_name(other, carrier, tmp_path):
    frame = table()
    change, message = OTHERS[other]
    vae = CARRIERS[carrier](trained(of_normals, frame)[0], tmp_path)
    assert vae.columns == NAMES
    for verb in (pv.elbo, pv.log_marginal, pv.refine, pv.diagnose, pv.to_arviz, pv.features):
        with pytest.raises(ValueError, match=message):
            verb(vae, change(frame))
    for data in ({"data": change(frame)}, {"data": frame, "validation": change(frame)}):
        with pytest.raises(ValueError, match=message):
            pv.fit(vae, progress=False, epochs=1, **data)
    assert vae.encode(frame).equal(vae.encode(frame.to_numpy()))  # what has no names is taken by place


def test_the_remedy_puts_another_frame_into_order():
    frame = table()
    vae, _ = trained(of_normals, frame)
    expected = pv.elbo(vae, frame, seed=0).elbo
    shuffled = frame.assign(id=3)[["income", "id", "height", "age"]]
    assert torch.equal(pv.elbo(vae, shuffled[vae.columns], seed=0).elbo, expected)


def test_columns_of_a_context():
    frame, groups = table(), pd.DataFrame({"old": np.arange(N) % 2, "new": 1.0})

    def make():
        torch.manual_seed(0)
        return pv.VAE(LatentVariableModel(StandardNormal(2), Normal(pv.nn.MLP(4, (3, 3)))))

    vae, _ = trained(make, (frame, groups))
    message = (
        r"context 1 has its columns in another order: 'new' .*frame\[list\(vae.row_specs\[1\].columns\)\]"
    )
    with pytest.raises(ValueError, match=message):
        vae.encode(frame, groups[["new", "old"]])
    with pytest.raises(ValueError, match=message):
        vae.generate(N, groups[["new", "old"]])
    assert vae.generate(N, groups[list(vae.row_specs[1].columns)]).shape == (N, 3)


def test_the_frame_of_training_counts_where_others_came_without_names():
    vae = of_normals()
    vae.rows(table().to_numpy())
    assert vae.columns is None
    pv.elbo(vae, table())
    assert vae.columns is None  # an evaluation changes nothing
    pv.fit(vae, table(), epochs=1, progress=False)
    assert vae.columns == NAMES


def test_columns_are_remembered_through_a_transform():
    vae, _ = trained(of_bits, (table() > 0).astype(float) / 2, transform=lambda x: (x > 0).float())
    assert vae.columns == NAMES
    with pytest.raises(ValueError, match="another order"):
        pv.elbo(vae, (table() > 0)[NAMES[::-1]])


def test_a_file_of_other_columns_is_refused_and_changes_nothing(tmp_path):
    trained(of_normals, table())[0].save(tmp_path / "vae")
    other = of_normals()
    other.rows(table()[NAMES[::-1]])
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(
        ValueError, match="the file's VAE had the columns 'age', .* this VAE has seen 'income', "
    ):
        other.load(tmp_path / "vae")
    assert all(map(torch.equal, before, other.parameters()))
    assert other.columns == NAMES[::-1]


def test_names_that_are_numbers(tmp_path):
    vae, _ = trained(of_normals, table().set_axis([2001, 2002, 2003], axis=1))
    vae.save(tmp_path / "vae")
    loaded = of_normals().load(tmp_path / "vae")
    assert loaded.columns == [2001, 2002, 2003]
    unnamed, _ = trained(of_normals, pd.DataFrame(table().to_numpy()))
    assert unnamed.columns is None


def test_memory_maps_of_16_bits(tmp_path):
    np.save(tmp_path / "x.npy", few_counts().astype("uint16"))
    rows = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert isinstance(rows.x, OnDisk)
    assert torch.equal(rows.take(slice(0, 9)).x, torch.as_tensor(few_counts()[:9]).int())
