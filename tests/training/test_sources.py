"""Where data may come from: whatever holds them, a training sees the same rows, each once an epoch."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae.data import Rows
from pyrovae.training.batches import GatheredBatches, Share, batches_of
from tests.pairs import binary_rows, composed, methods
from tests.training.test_fitting import Deterministic, Recording

N, D = 45, 6


class Pairs(Dataset):
    def __init__(self, rows=N):
        self.x = binary_rows(N)[:rows]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return self.x[place]


class Stream(IterableDataset):
    def __init__(self, repeatable=True):
        self.rows, self.repeatable = binary_rows(N), repeatable
        self.iterator = iter(self.rows)

    def __iter__(self):
        return iter(self.rows) if self.repeatable else self.iterator


def on_disk(path):
    np.save(path / "x.npy", binary_rows(N).numpy())
    return np.load(path / "x.npy", mmap_mode="r")


GATHERED = {
    "tensor": lambda path: binary_rows(N),
    "array of float64": lambda path: binary_rows(N).double().numpy(),
    "read-only array": lambda path: np.broadcast_to(binary_rows(N).numpy(), (N, D)),
    "memory-mapped": on_disk,
    "data frame": lambda path: pd.DataFrame(binary_rows(N).numpy(), columns=list("abcdef")),
    "tuple": lambda path: (binary_rows(N),),
    "dict": lambda path: {"x": binary_rows(N)},
    "tensors in a Dataset": lambda path: TensorDataset(binary_rows(N)),
}


def train(data, make=composed, **settings):
    torch.manual_seed(0)
    vae = make()
    given = {"epochs": 2, "batch_size": 8, "seed": 0, "compile": False, "progress": False} | settings
    history = pv.fit(vae, data, **given)
    return history.drop(columns="seconds"), torch.cat([p.detach().flatten() for p in vae.parameters()])


@pytest.mark.parametrize("name", GATHERED)
def test_what_holds_the_rows_changes_nothing(tmp_path, name):
    data = GATHERED[name](tmp_path)
    history, weights = train(data, validation=data)
    expected, wanted = train(binary_rows(N), validation=binary_rows(N))
    assert history.equals(expected)
    assert torch.equal(weights, wanted)


LOADED = {
    "Dataset": lambda: (Pairs(), {"batch_size": 8}),
    "IterableDataset": lambda: (Stream(), {"batch_size": 8}),
    "DataLoader": lambda: (DataLoader(Pairs(), batch_size=8, shuffle=True), {"batch_size": None}),
    "batches of its own": lambda: (
        DataLoader(Stream(), batch_size=None, collate_fn=lambda row: row[None]),
        {"batch_size": None},
    ),
}


@pytest.mark.parametrize("name", LOADED)
def test_a_loaders_rows_come_once_an_epoch_in_an_order_of_the_seed(name):
    data, settings = LOADED[name]()
    seen = []

    def watching(x):
        seen.append(x)
        return x

    (a, p), (b, q) = (train(data, transform=watching, **settings) for _ in range(2))
    assert a.equals(b)
    assert torch.equal(p, q)
    per_training = torch.cat(seen[-2 * (N if name == "batches of its own" else 6) :])
    for epoch in per_training.split(N):
        assert sorted(map(str, epoch.tolist())) == sorted(map(str, binary_rows(N).tolist()))


def test_context_comes_along_by_name_and_by_place():
    y = torch.eye(3)[torch.arange(N) % 3]

    class Labelled(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, place):
            return {"x": binary_rows(N)[place], "y": y[place]}

    def model(x, y):
        pyro.module("pair", pair)
        pair.model(x, y)

    def guide(x, y):
        pyro.module("pair", pair)
        pair.guide(x, y)

    results = []
    for data in (
        (binary_rows(N), y),
        {"y": y, "x": binary_rows(N)},
        TensorDataset(binary_rows(N), y),
        Labelled(),
    ):
        torch.manual_seed(0)
        pair = methods().model.__self__
        results.append(train(data, make=lambda: pv.VAE(model, guide))[0])
    assert results[0].equals(results[1])
    assert results[0].equals(results[2])
    assert np.isfinite(results[3].elbo).all()
    with pytest.raises(ValueError, match=r"a dict of \['x'\]: expected the model's arguments, x, y"):
        train({"x": binary_rows(N)}, make=lambda: pv.VAE(model, guide))


@pytest.mark.parametrize(
    "held_out", [Pairs(), DataLoader(Pairs(), batch_size=7), TensorDataset(binary_rows(N))]
)
def test_validation_from_the_same_kinds_of_source(held_out):
    still = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731
    history, _ = train(binary_rows(N), validation=held_out, optimizer=still)
    assert history.elbo_valid.nunique() == 1
    torch.manual_seed(0)
    exact = pv.elbo(composed(), binary_rows(N), num_samples=200, seed=0)
    spread = float(exact.std_error.mean()) * 200**0.5 / N**0.5
    # Five standard errors: one false alarm in a million.
    assert history.elbo_valid[0] == pytest.approx(float(exact.elbo.mean()), abs=5 * spread)


def test_a_data_set_smaller_than_a_batch_makes_whole_steps():
    class Places(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, place):
            return torch.tensor(float(place))

    pair = Deterministic()
    optimizer = Recording([pair.w])
    pv.fit(pv.VAE(pair.model, pair.guide), Places(), epochs=1, optimizer=optimizer, progress=False)
    # d/dw of the mean negative log likelihood is w - mean(x).
    assert float(optimizer.gradients[0][0]) == pytest.approx(0.5 - 4.5, rel=1e-5)


def test_what_a_loader_draws_is_no_part_of_the_noise_of_training():
    class Noisy(Pairs):
        def __getitem__(self, place):
            return torch.bernoulli(0.1 + 0.8 * self.x[place])

    def seen(num_samples):
        rows = []

        def watching(x):
            rows.append(x)
            return x

        objective = pv.objectives.ELBO(num_samples)
        train(Noisy(), transform=watching, objective=objective)
        return torch.cat(rows[-12:])

    assert torch.equal(seen(1), seen(3))


# Transforms


def test_a_transform_binarizes_afresh_from_the_seed():
    grey = torch.rand(N, D)
    batches = []

    def binarized(x):
        x = torch.bernoulli(x)
        batches.append(x)
        return x

    (a, p), (b, q) = (train(grey, transform=binarized, validation=grey) for _ in range(2))
    assert a.equals(b)
    assert torch.equal(p, q)
    assert not train(grey, transform=torch.bernoulli, validation=grey, seed=1)[0].equals(a)
    rows = torch.cat(batches)
    assert set(rows.unique().tolist()) == {0.0, 1.0}
    assert len({tuple(r.tolist()) for r in rows}) > N  # not the same noughts and ones each time
    with pytest.raises(ValueError, match="lies outside the support of site 'x'"):
        train(grey)


def test_a_transform_may_change_the_kind_of_the_rows_and_the_context():
    pixels = (torch.rand(N, D) * 255).to(torch.uint8)
    scaled = lambda x: torch.bernoulli(x / 255)  # noqa: E731
    expected, _ = train(pixels, transform=scaled)
    for data, size in ((TensorDataset(pixels), 8), (DataLoader(pixels, batch_size=8), None)):
        history, _ = train(data, transform=scaled, batch_size=size)
        assert history.elbo.iloc[-1] == pytest.approx(expected.elbo.iloc[-1], abs=1.0)
    with pytest.raises(TypeError, match=r"transform is 'binarize': expected a function"):
        train(pixels, transform="binarize")


# What is refused


def test_loaders_without_batches():
    for data, message in (
        (DataLoader(Pairs(0), batch_size=8), "the DataLoader gives no batches"),
        (DataLoader(Pairs(5), batch_size=8, drop_last=True), "the DataLoader gives no batches"),
        (Pairs(0), "the Dataset is empty"),
        (torch.zeros(0, D), "the data have no rows"),
        (np.zeros((0, D)), "the data have no rows"),
    ):
        with pytest.raises(ValueError, match=message):
            train(data, batch_size=None)
    with pytest.raises(ValueError, match=r"no batches in epoch \d: they can be read once only"):
        train(Stream(repeatable=False))
    with pytest.raises(ValueError, match="batch_size is 8, but the data are a DataLoader"):
        train(DataLoader(Pairs(), batch_size=8))
    with pytest.raises(ValueError, match="validation data: the DataLoader gives no batches"):
        train(binary_rows(N), validation=DataLoader(Pairs(0)))


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.zeros(8, D + 1), r"batch 2 of the DataLoader: x has rows of shape \[7\]"),
        (torch.zeros(8, D, dtype=torch.int64), "batch 2 of the DataLoader: x is torch.int64"),
        (torch.full((8, D), torch.nan), "(?s)batch 2 of the DataLoader: the guide failed.*MissingAsZero"),
        ((torch.zeros(8, D), torch.zeros(8)), "batch 2 of the DataLoader: got 2 data arguments"),
    ],
)
@pytest.mark.parametrize("transform", [None, lambda x, *c: (x, *c)])
def test_batches_that_change_midway(bad, message, transform):
    class Changing(IterableDataset):
        def __iter__(self):
            return iter([torch.zeros(8, D), torch.zeros(8, D), bad])

    with pytest.raises((ValueError, TypeError), match=message):
        train(DataLoader(Changing(), batch_size=None), batch_size=None, transform=transform)


def test_rows_on_disk_are_looked_up_without_asking_the_device(tmp_path):
    # A device whose tensors hold no values: to read a place from it fails.
    batches = GatheredBatches(composed().to("meta"), Rows((on_disk(tmp_path),)), 8, None, Share())
    for batch in [*batches.epoch(0), batches.draw()]:
        assert batch.batch.device.type == "meta"
        assert len(batch.batch) == len(batch.places)


def test_objects_and_unequal_rows():
    with pytest.raises(TypeError, match="expected numbers"):
        train(pd.DataFrame({"a": ["p", "q"]}))
    with pytest.raises(ValueError, match="x has 45 rows and context 1 has 44"):
        train((binary_rows(N), torch.zeros(44)))
    with pytest.raises(TypeError, match="x is str"):
        train("digits.csv")


def test_shares_of_processes_are_the_whole_batch():
    vae = composed()
    for data, size in ((binary_rows(N), 8), (DataLoader(Pairs(), batch_size=8, shuffle=True), None)):
        whole = list(batches_of(vae, data, size, None, Share()).epoch(3))
        parts = [list(batches_of(vae, data, size, None, Share(rank, 6)).epoch(3)) for rank in range(6)]
        for batch, *shares in zip(whole, *parts, strict=True):
            rows = [s.batch.x for s in shares if s.batch is not None]
            assert {s.num_rows for s in shares} == {batch.num_rows}
            together = sorted(map(str, torch.cat(rows).tolist()))
            assert together == sorted(map(str, batch.batch.x.tolist()))
        assert parts[5][-1].batch is None  # 5 rows are left for 6 processes


def test_a_distributed_sampler_is_refused():
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(Pairs(), num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="leave it out"):
        batches_of(composed(), DataLoader(Pairs(), batch_size=8, sampler=sampler), None, None, Share(0, 2))


# More data than memory

LARGE = """
import os, resource, sys
import numpy as np, torch
import pyrovae as pv
from tests.training.test_sources import wide

path, rows, width = sys.argv[1], 131072, 1024                     # 512 MiB of float32, a sparse file
x = np.memmap(path, dtype="float32", mode="w+", shape=(rows, width))
x[::1000] = 1.0
del x
vae, x = wide(width), np.memmap(path, dtype="float32", mode="r", shape=(rows, width))
pv.fit(wide(width), x[:64], epochs=1, batch_size=32, progress=False, compile=False)   # what imports late is here now

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024

allowed = rows * width * 4 // 10
limit = held() + allowed
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(x)
except MemoryError:
    pass
else:
    raise AssertionError("there is no limit")
history = pv.fit(vae, x, epochs=1, batch_size=128, progress=False, compile=False,
                 validation=x[:2000], checkpoint=path + ".ckpt")
assert np.isfinite(history.elbo[0])
print(history.elbo[0])
"""


def wide(width):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, width))

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(x[:, :1], 1.0).to_event(1))

    return pv.VAE(Model(), Guide())


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_ten_times_more_data_than_memory(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "x")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0
