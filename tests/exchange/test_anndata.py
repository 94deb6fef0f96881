"""AnnData: counts stay sparse until a batch, layers and columns of obs as context, genes compared by name."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import pyrovae as pv
from pyrovae.arrays import Sparse
from pyrovae.data import Rows

anndata = pytest.importorskip("anndata", reason="anndata is not installed")

CELLS, GENES = 60, 12


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.5, (CELLS, GENES)).astype(np.float32))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(rng.choice(["b", "a"], CELLS), categories=["b", "a"]),
            "total": np.asarray(counts.sum(1)).ravel() + 1,
            "old": rng.random(CELLS) < 0.5,
            "note": ["x", "y"] * (CELLS // 2),
        },
        index=[f"cell{i}" for i in range(CELLS)],
    )
    found = anndata.AnnData(counts * 2, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]))
    found.layers["counts"] = counts
    return found


def vae_of(context=0):
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Poisson(pv.nn.MLP(2 + context, GENES))
    )
    encoder = pv.guides.DiagonalNormal(pv.nn.MLP(GENES + context, (2, 2)))
    return pv.VAE(model, pv.guides.AmortizedGuide(encoder))


def fitted(data, context=0):
    vae = vae_of(context)
    return vae, pv.fit(vae, data, epochs=2, batch_size=20, seed=0, progress=False, compile=False)


def test_cells_train_as_their_matrix_does_and_stay_sparse(adata):
    assert isinstance(Rows(adata).x, Sparse)
    vae, history = fitted(adata)
    _, expected = fitted(adata.X.toarray())
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert vae.columns == list(adata.var_names)
    adata.obsm["X_vae"] = pv.features(vae, adata).numpy()
    assert adata.obsm["X_vae"].shape == (CELLS, 2)
    assert pv.log_marginal(vae, adata[:5], num_samples=3).log_marginal.shape == (5,)


def test_other_genes_are_refused_by_name(adata):
    vae, _ = fitted(adata)
    with pytest.raises(ValueError, match="gene"):
        pv.elbo(vae, adata[:, ::-1])


def test_a_layer_and_columns_of_obs(adata):
    x, batch, total, old = rows = pv.from_anndata(adata, layer="counts", context=["batch", "total", "old"])
    assert torch.equal(Rows(x).take(slice(None)).x, torch.tensor(adata.layers["counts"].toarray()))
    assert (batch.shape, total.shape, old.shape) == ((CELLS, 2), (CELLS, 1), (CELLS, 2))
    assert torch.equal(batch[:, 0] == 1, torch.tensor((adata.obs["batch"] == "b").to_numpy()))
    assert torch.equal(total[:, 0].double(), torch.tensor(adata.obs["total"].to_numpy(float)))
    vae, _ = fitted(rows, context=5)
    assert pv.features(vae, *rows).shape == (CELLS, 2)
    assert vae.columns == list(adata.var_names)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layer": "raw"}, ValueError, "there is no layer 'raw': there are 'counts'"),
        ({"context": ["donor"]}, ValueError, "obs has no 'donor': its columns are 'batch'"),
        ({"context": "batch"}, TypeError, r"expected a list of names, \['batch'\]"),
        ({"context": ["note"]}, TypeError, r"obs\['note'\] is .*astype\('category'\)"),
    ],
)
def test_wrong_names_are_refused(adata, settings, error, message):
    with pytest.raises(error, match=message):
        pv.from_anndata(adata, **settings)


def test_what_cannot_be_rows_is_refused(adata, tmp_path):
    with pytest.raises(TypeError, match="adata is ndarray"):
        pv.from_anndata(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="an AnnData without X"):
        Rows(anndata.AnnData(obs=adata.obs))
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(CELLS) > 3)
    with pytest.raises(ValueError, match=r"obs\['batch'\] lacks 4 values"):
        pv.from_anndata(adata, context=["batch"])
