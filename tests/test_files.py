"""What is written is read, and nothing else: schema, sizes, checksum; and what is refused changes nothing."""

import json
import os
import resource
import stat
import sys

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch

import pyrovae as pv
from pyrovae import container
from pyrovae.container import parsed
from pyrovae.files import FileError, load_tensors, save_tensors
from pyrovae.pair.saved_pair import SavedPair
from pyrovae.schema import MalformedError, check_like, checked
from tests.pairs import binary_rows, composed
from tests.robustness.fuzzed_files import joined, split


def rewritten(path, change):
    """The file with other facts and a checksum that fits them."""
    header, facts, data = split(path.read_bytes())
    change(facts)
    path.write_bytes(joined(header, facts, data))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (4, 1)])
@pytest.mark.parametrize("dtype", container.DTYPES.values())
def test_tensors_of_every_dtype_come_back(tmp_path, dtype, shape):
    value = (torch.randn(shape) * 3).to(dtype)
    given = {"a": value, "b": torch.tensor([True, False]), "c": torch.arange(5, dtype=torch.float64)}
    save_tensors(tmp_path / "f", "test", given, {"n": [1, None, float("inf"), "é\U0001f600"]})
    found, facts = load_tensors(tmp_path / "f", "test")
    assert facts == {"kind": "test", "n": [1, None, float("inf"), "é\U0001f600"]}
    assert found.keys() == given.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in given.items())


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="'a' is torch.complex128: expected one of"):
        save_tensors(tmp_path / "f", "test", {"a": torch.zeros(2, dtype=torch.complex128)}, {})
    with pytest.raises(ValueError, match="characters of numbers and texts cannot be saved"):
        save_tensors(tmp_path / "f", "test", {}, {"a": [[0]] * 100_000})
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_of_a_tensor_is_seen(tmp_path):
    vae = composed()
    vae.save(tmp_path / "vae")
    whole = (tmp_path / "vae").read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    for place in range(first, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / "vae").write_bytes(damaged)
        with pytest.raises(FileError, match="some bytes of the file have changed") as caught:
            vae.load(tmp_path / "vae")
        assert caught.value.field == "metadata.sha256"
        assert caught.value.path == tmp_path / "vae"


def test_files_without_a_checksum_or_of_another_format(tmp_path):
    vae = composed()
    old = {"pyrovae": json.dumps({"kind": "VAE", "pair": None})}
    safetensors.torch.save_file(vae.tensors(), tmp_path / "vae", metadata=old)
    with pytest.raises(FileError, match="development versions have none. Save it anew; safetensors"):
        vae.load(tmp_path / "vae")
    # As it says.
    vae.load_state_dict(safetensors.torch.load_file(tmp_path / "vae"), strict=False)
    vae.save(tmp_path / "vae")
    rewritten(tmp_path / "vae", lambda facts: facts.update(format=2))
    with pytest.raises(FileError, match="of format 2: this pyrovae reads format 1. Upgrade"):
        vae.load(tmp_path / "vae")


WRONG = {
    "pair": 3,
    "pair.latents.z": [[2], [], []],
    "pair.latents.z.0.0": "2",
    "pair.sample_dim": -(10**9),
    "pair.rows": [],
    "pair.rows.0": ["load", [6]],
    "pair.rows.0.1.0": -1,
    "pair.rows.0.1": [2**40, 2**40],
    "pair.broadcasts.0": 1,
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_that_is_not_of_its_kind_is_named(tmp_path, field):
    seen = composed()
    seen.rows(binary_rows())
    seen.save(tmp_path / "vae")

    def spoil(facts):
        node, (*path, last) = facts, field.split(".")
        for key in path:
            node = node[int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = WRONG[field]

    rewritten(tmp_path / "vae", spoil)
    vae = composed()
    before = {n: t.detach().clone() for n, t in vae.tensors().items()}
    with pytest.raises(FileError) as caught:
        vae.load(tmp_path / "vae")
    assert field.startswith(caught.value.field) or caught.value.field.startswith(field)
    assert caught.value.field in str(caught.value)
    assert all(torch.equal(t, before[n]) for n, t in vae.tensors().items())


def unbounded(hidden=()):
    """A model that takes rows of any length, so that only the file says how long they are."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, x.shape[-1]]).to_event(1), obs=x
            )

    return pv.VAE(model)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured otherwise elsewhere")
@pytest.mark.parametrize("size", [50_000, 140_000, 10**9])
def test_a_small_file_takes_no_memory_for_the_rows_it_tells_of(tmp_path, size):
    saved = unbounded()
    saved.rows(torch.randn(9, 4))
    saved.save(tmp_path / "vae")
    unbounded().load(tmp_path / "vae")  # what the first time imports is no file's

    def lengthen(facts):
        facts["pair"]["rows"][0][1][0] = size
        facts["pair"]["observed"]["x"][0][0] = size

    rewritten(tmp_path / "vae", lengthen)
    vae = unbounded()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileError, match="pair.rows"):
        vae.load(tmp_path / "vae")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 50 * 2**20
    # Nothing is left of what was begun, so that the right file can be loaded.
    assert not vae.guide.is_built
    assert not vae.tensors()
    saved.save(tmp_path / "vae")
    vae.load(tmp_path / "vae")
    assert torch.equal(vae.encode(torch.ones(2, 4)), saved.encode(torch.ones(2, 4)))


def test_a_guide_that_was_built_for_another_file_is_unbuilt_again(tmp_path):
    def derived():
        return pv.VAE(composed(D=6).model)

    saved = derived()
    saved.rows(binary_rows())
    saved.save(tmp_path / "vae")
    header, facts, data = split((tmp_path / "vae").read_bytes())
    name = next(n for n in header if n.startswith("guide.heads"))
    header["guide.other"] = header.pop(name)
    (tmp_path / "vae").write_bytes(joined(header, facts, data))
    vae = derived()
    names = vae.tensors().keys()
    with pytest.raises(FileError, match=f"another architecture: it lacks '{name}'; it has 'guide.other'"):
        vae.load(tmp_path / "vae")
    assert not vae.guide.is_built
    assert vae.tensors().keys() == names


@pytest.mark.parametrize(
    "text, problem",
    [
        ('{"a": 1, "a": 2}', "has 'a' twice"),
        ("[" * 65 + "]" * 65, "is nested more than 64 deep"),
        ("[" * 100_000, "is nested more than 64 deep"),
        ("[" + "[]," * 1_000_000 + "[]]", "is too long"),
        ("1" * 5000, "is no JSON"),
        ('"\\ud800"', "is no JSON"),
        ("{", "is no JSON"),
    ],
)
def test_json_of_strangers(text, problem):
    with pytest.raises(MalformedError, match=problem):
        parsed(text, "facts")


def test_types_are_told_apart():
    assert checked([1, 2.5, None], list[float | None], "a") == [1, 2.5, None]
    for value, kind in [
        (True, int),
        (1, bool),
        (True, float),
        (2**63, int),
        ([1], tuple[int, int]),
        ({1: 1}, dict[str, int]),
    ]:
        with pytest.raises(MalformedError):
            checked(value, kind, "a")
    with pytest.raises(MalformedError, match="pair.sample_dim is missing"):
        checked({}, SavedPair, "pair")
    check_like({"a": [0.5], "b": None}, {"a": [1], "b": 3.0} | {"b": None}, "s")
    for value in ({}, {"a": []}, {"a": [None]}, {"a": ["x"]}, {"a": [True]}, 3):
        with pytest.raises(MalformedError, match="^s"):
            check_like(value, {"a": [1.0]}, "s")


def test_a_files_own_words_are_shown_and_not_obeyed():
    message = str(FileError("vae.safetensors", "name", "holds 'a\x1b[31m\u202eb'"))
    assert message == "vae.safetensors holds 'a\\x1b[31m\\u202eb'"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_may_be_read_by_whom_the_umask_lets_and_keep_their_mode(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        composed().save(tmp_path / "vae")
        assert stat.S_IMODE((tmp_path / "vae").stat().st_mode) == mode
        (tmp_path / "vae").chmod(0o440)
        composed().save(tmp_path / "vae")
        assert stat.S_IMODE((tmp_path / "vae").stat().st_mode) == 0o440
    finally:
        os.umask(before)
