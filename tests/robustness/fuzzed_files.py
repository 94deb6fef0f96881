"""Damages a saved VAE and a saved training in many ways, reads each, and counts what comes of it.

Run as `python -m tests.robustness.fuzzed_files COUNT [FIRST]`; `make robustness` does. Each file goes by the number of
its seed, so that a finding can be had again. Files are read in a process of their own, whose death is a finding too.
"""

import contextlib
import copy
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyrovae as pv
from pyrovae import container, files
from pyrovae.callbacks import EarlyStopping
from pyrovae.files import FileError
from pyrovae.pair.savable import WEIGHTS
from pyrovae.schema import MalformedError
from tests.pairs import binary_rows, composed

ALLOWANCE = 50 * 2**20  # of memory, beside twice the file

# The parts of a file


def split(whole):
    """The header as a dict, the facts in it as a dict, and the tensors' bytes."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["pyrovae"]), whole[8 + length :]


def joined(header, facts, data, text=None):
    """The file as one who wants it read would write it: with a checksum that fits, if its tensors can be read."""
    header = dict(header)
    facts = {name: fact for name, fact in facts.items() if name != "sha256"}
    try:
        table = {name: entry for name, entry in header.items() if name != "__metadata__"}
        facts = {"sha256": files._digest(facts, container._tensors(table, bytearray(data))), **facts}
    except (MalformedError, TypeError, ValueError, KeyError, RecursionError):
        facts = {"sha256": "0" * 64, **facts}
    header["__metadata__"] = {"pyrovae": text or json.dumps(facts)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + bytes(data)


def places_in(tree, path=()):
    """The paths to all nodes of nested lists and dicts."""
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places_in(tree[key], (*path, key))


def replaced(tree, path, make):
    """A copy of a tree with another node at a path; its removal where `make` gives `...`."""
    tree = copy.deepcopy(tree)
    if not path:
        return make(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    made = make(node[path[-1]])
    if made is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = made
    return tree


# Ways to damage it, each from the bytes and a source of chance

STRANGE = [
    None,
    True,
    -1,
    0,
    3,
    2.5,
    float("nan"),
    float("inf"),
    10**6,
    10**9,
    2**62,
    2**63,
    10**30,
    "",
    "x",
    "load",
]
STRANGE += [
    "\x1b[2J",
    "__import__('os').system('touch /tmp/ran')",
    [],
    {},
    [[]],
    {"a": 1},
    [1, 2],
    ["float32", [4]],
]
STRANGE += [
    {"tensor": "state.weights"},
    {"tensor": 3},
    {"tuple": [1, 2]},
    {"dict": [[1, 2]]},
    {"numbers": "x"},
]


def flipped(chance, whole, first, stop):
    found = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 8, 64])):
        found[chance.randrange(first, stop)] ^= 1 << chance.randrange(8)
    return bytes(found)


def truncation(whole, chance):
    return whole[: chance.randrange(len(whole))]


def extension(whole, chance):
    more = chance.randbytes(chance.choice([1, 8, 1000]))
    return whole + more if chance.random() < 0.5 else more + whole


def bits_of_the_header(whole, chance):
    return flipped(chance, whole, 0, 8 + int.from_bytes(whole[:8], "little"))


def bits_of_the_metadata(whole, chance):
    first = whole.index(b"__metadata__")
    return flipped(chance, whole, first, whole.index(b'}"}', first) + 3)


def bits_of_tensors(whole, chance):
    return flipped(chance, whole, 8 + int.from_bytes(whole[:8], "little"), len(whole))


def blocks(whole, chance):
    """Sectors that were never written, or lie elsewhere."""
    size = chance.choice([64, 512])
    a, b = (size * chance.randrange(len(whole) // size) for _ in range(2))
    found = bytearray(whole)
    found[a : a + size] = bytes(size) if chance.random() < 0.5 else whole[b : b + size]
    return bytes(found)


def wrong_types(whole, chance):
    header, facts, data = split(whole)
    for _ in range(chance.choice([1, 1, 3])):
        path = chance.choice(list(places_in(facts)))
        facts = replaced(facts, path, lambda _: chance.choice(STRANGE))
        if not isinstance(facts, dict):
            return joined(header, {}, data, json.dumps(facts))
    return joined(header, facts, data)


def removals(whole, chance):
    header, facts, data = split(whole)
    paths = [path for path in places_in(facts) if path]
    return joined(header, replaced(facts, chance.choice(paths), lambda _: ...), data)


def wrong_shapes(whole, chance):
    """Tensors of as many bytes in another shape, dtype or place."""
    header, facts, data = split(whole)
    name = chance.choice([n for n in header if n != "__metadata__"])
    entry = header[name] = copy.deepcopy(header[name])
    match chance.randrange(5):
        case 0:
            entry["shape"] = entry["shape"][::-1] if len(set(entry["shape"])) > 1 else [1, *entry["shape"]]
        case 1:
            entry["shape"] = [int(np.prod(entry["shape"]))]
        case 2:
            entry["dtype"] = chance.choice([*container.DTYPES, "F8_E4M3", "F4", "U64", "OBJECT", 3, None])
        case 3:
            entry["data_offsets"] = [chance.choice([0, 1, -8, 2**62, None, 2.5]) for _ in range(2)]
        case _:
            entry[chance.choice(["shape", "data_offsets"])] = chance.choice(STRANGE)
    return joined(header, facts, data)


def smaller_tensors(whole, chance):
    """One tensor has fewer numbers than it had, and the file is whole: moments that fused steps write beyond."""
    header, facts, data = split(whole)
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    victim, made, found = chance.choice(names), {}, bytearray()
    for name in names:
        entry = copy.deepcopy(header[name])
        part = data[slice(*entry["data_offsets"])]
        if name == victim and entry["shape"]:
            entry["shape"][0] = chance.randrange(entry["shape"][0])
            size = int(np.prod(entry["shape"])) * container.DTYPES[entry["dtype"]].itemsize
            part = part[:size]
        entry["data_offsets"] = [len(found), len(found) + len(part)]
        made[name] = entry
        found += part
    return joined(made, facts, bytes(found))


def nesting(whole, chance):
    header, facts, data = split(whole)
    depth = chance.choice([65, 200, 990, 5_000, 100_000])
    opened, closed = chance.choice(
        [("[", "]"), ('{"a":', "}"), ('{"tuple":[', "]}"), ('{"dict":[[1,', "]]}")]
    )
    facts = replaced(facts, chance.choice(list(places_in(facts))[1:]), lambda _: "HERE")
    nested = opened * depth + "1" + closed * depth
    if chance.random() < 0.2:
        head = (nested if chance.random() < 0.5 else '{"__metadata__":' + nested + "}").encode()
        return len(head).to_bytes(8, "little") + head + data
    sealed = split(joined(header, facts, data))[1]
    return joined(header, facts, data, json.dumps(sealed).replace('"HERE"', nested, 1))


def huge_sizes(whole, chance):
    header, facts, data = split(whole)
    match chance.randrange(4):
        case 0:  # what the file says of its own header
            return chance.choice([2**24, 2**31, 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little") + whole[8:]
        case 1:  # as much as can be said in few characters
            size = chance.choice([2**20, 2**22, 2**23])
            filler = chance.choice(["[],", "{},", '{"a":0},', "1,", '"",', '"ab",', "1e9,"]) * (size // 4)
            text = json.dumps(facts)[:-1] + f', "more": [{filler[:-1]}]' + "}"
            return joined(header, facts, data, text)
        case 2:
            name = chance.choice([n for n in header if n != "__metadata__"])
            header[name] = {**header[name], "shape": [chance.choice([2**20, 2**31, 2**62, 10**30]), 0, 2**62]}
            return joined(header, facts, data)
    numbers = [p for p in places_in(facts) if p and p[-1] != "format" and type(_at(facts, p)) is int]
    for path in chance.sample(numbers, min(len(numbers), chance.choice([1, 2, 5]))):
        facts = replaced(facts, path, lambda _: chance.choice([-3, 500, 10**5, 10**6, 10**7, 10**9, 2**62]))
    return joined(header, facts, data)


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def swapped_names(whole, chance):
    """Two tensors change names, or two references to them."""
    header, facts, data = split(whole)
    if chance.random() < 0.5:
        a, b = chance.sample([n for n in header if n != "__metadata__"], 2)
        header[a], header[b] = header[b], header[a]
    else:
        texts = [p for p in places_in(facts) if p and isinstance(_at(facts, p), str)]
        a, b = chance.sample(texts, 2)
        one, other = _at(facts, a), _at(facts, b)
        facts = replaced(replaced(facts, a, lambda _: other), b, lambda _: one)
    return joined(header, facts, data)


def doubled_keys(whole, chance):
    header, facts, data = split(whole)
    if chance.random() < 0.5:
        name = chance.choice([n for n in header if n != "__metadata__"])
        entry = json.dumps({name: {**header[name], "shape": [1]}})[1:-1]
        length = int.from_bytes(whole[:8], "little")
        head = whole[8 : 8 + length].rstrip()[:-1] + b"," + entry.encode() + b"}"
        return len(head).to_bytes(8, "little") + head + data
    dicts = [p for p in places_in(facts) if isinstance(_at(facts, p), dict) and _at(facts, p)]
    path = chance.choice(dicts)
    key = chance.choice(list(_at(facts, path)))
    marked = replaced(facts, path, lambda node: {"HERE": 1, **node})
    return joined(
        header,
        facts,
        data,
        json.dumps(marked).replace('"HERE": 1', f"{json.dumps(key)}: {chance.randrange(9)}", 1),
    )


def strange_numbers(whole, chance):
    """The file is whole and its tensors hold what they should not."""
    header, facts, data = split(whole)
    name = chance.choice([n for n in header if n != "__metadata__"])
    first, stop = header[name]["data_offsets"]
    filler = chance.choice([b"\xff", b"\x00", b"\x7f\x80", b"\x80\x7f", None])
    content = chance.randbytes(stop - first) if filler is None else (filler * (stop - first))[: stop - first]
    return joined(header, facts, data[:first] + content + data[stop:])


class Runs:
    """What a pickle would do if anybody read it."""

    def __reduce__(self):
        return os.system, ("touch " + os.environ.get("PYROVAE_MARK", "/tmp/pyrovae-mark"),)


def code(whole, chance):
    """Files that run something where they are read as pickles, and where names of theirs are looked up."""
    if chance.random() < 0.5:
        return pickle.dumps(Runs()) + whole[: chance.choice([0, len(whole)])]
    header, facts, data = split(whole)
    texts = [p for p in places_in(facts) if p and isinstance(_at(facts, p), str)]
    word = chance.choice(
        ["load", "hub.load", "os.system", "__class__", "__reduce__", "c" + "posix\nsystem\n"]
    )
    return joined(header, replaced(facts, chance.choice(texts), lambda _: word), data)


KINDS = [
    truncation,
    extension,
    bits_of_the_header,
    bits_of_the_metadata,
    bits_of_tensors,
    blocks,
    wrong_types,
    removals,
    wrong_shapes,
    smaller_tensors,
    nesting,
    huge_sizes,
    swapped_names,
    doubled_keys,
    strange_numbers,
    code,
]
# Their checksum is the old one: whatever of them is taken must say what the file said.
ACCIDENTS = {
    "truncation",
    "extension",
    "bits_of_the_header",
    "bits_of_the_metadata",
    "bits_of_tensors",
    "blocks",
}

# Reading


def derived():
    """A VAE whose guide is built from what its file says of rows."""
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6)))
    return pv.VAE(model)


def resumed(vae, path, stopping=EarlyStopping):
    """As a training goes on, and for how long it is to go on."""
    return pv.fit(
        vae,
        binary_rows(16),
        validation=binary_rows(16),
        epochs=2,
        batch_size=8,
        callbacks=[stopping()],
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        checkpoint=pv.Checkpoint(path, every_steps=3),
        resume=True,
        compile=False,
        seed=0,
        progress=False,
    )


class KilledError(Exception):
    """As if the training had been killed."""


class Ending(EarlyStopping):
    """Ends a training after three steps."""

    def on_batch(self, training):
        if training.step == 3:
            raise KilledError


Ending.__name__ = "EarlyStopping"  # by which a file knows it


class Reader:
    """One way to read files: what is loaded into, by what call, and a whole file to start from."""

    def __init__(self, make, read, whole):
        self.make, self.read, self.whole = make, read, whole
        self.vae, self.before = None, {}

    def ready(self):
        """The VAE, as it was at first."""
        if self.vae is None:
            self.vae = self.make()
            self.before = {n: t.detach().clone() for n, t in self.vae.tensors().items()}
            self.known = self._known()
        return self.vae

    def is_unchanged(self):
        own = self.vae.tensors()
        same = own.keys() == self.before.keys() and self._known() == self.known
        return same and all(torch.equal(t, self.before[n]) for n, t in own.items())

    def _known(self):
        """Its modules, and what it knows of sites, rows and columns."""
        return repr(self.vae), self.vae._layout, self.vae._row_specs


def readers(folder):
    """By name: a VAE that has seen rows, ones that have not, a training, and a VAE that takes a training's weights."""
    path = Path(folder) / "whole"
    seen = composed(hidden=[3])
    seen.rows(binary_rows())
    seen.save(path)
    found = {"VAE": Reader(lambda: _seen(composed(hidden=[3])), lambda v, p: v.load(p), path.read_bytes())}
    built = _seen(derived())
    built.save(path)
    found["derived"] = Reader(derived, lambda v, p: v.load(p), path.read_bytes())
    built = derived()
    built.rows(pd.DataFrame(binary_rows().numpy(), columns=list("abcdef")))
    built.save(path)
    found["frame"] = Reader(derived, lambda v, p: v.load(p), path.read_bytes())
    path.unlink()
    with contextlib.suppress(KilledError):
        resumed(composed(hidden=[3]), path, Ending)
    found["training"] = Reader(lambda: _seen(composed(hidden=[3])), resumed, path.read_bytes())
    found["weights"] = Reader(lambda: composed(hidden=[3]), lambda v, p: v.load(p), path.read_bytes())
    path.unlink()
    return found


def _seen(vae):
    vae.rows(binary_rows())
    return vae


def peak():
    """The largest resident memory since it was last reset, in bytes; None where the system does not tell."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return None


def tried(reader, damaged, accident, folder):
    """What came of a file, in a word, and how much memory it took beyond what is allowed."""
    path = Path(folder) / "file"
    path.write_bytes(damaged)
    vae = reader.ready()
    can_measure = sys.platform == "linux"
    if can_measure:
        Path("/proc/self/clear_refs").write_text("5")
    start = peak() if can_measure else 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(vae, path)
    except FileError as error:
        result = "refused"
        if error.path != path or not error.field or str(path) not in str(error):
            result = "WRONG: neither file nor field"
        elif len(str(error)) > 5000 or not str(error).isprintable():
            result = "WRONG: a message that cannot be shown"
        elif not reader.is_unchanged():
            result, reader.vae = "WRONG: changed", None
    except pv.NonFiniteLossError:
        result, reader.vae = "went on to a loss that is not finite", None
    except Exception as error:
        result, reader.vae = f"WRONG: {type(error).__name__}: {error}"[:300], None
    else:
        result = "taken"
        if accident:
            header, _, data = split(reader.whole)
            saved = {n: data[slice(*e["data_offsets"])] for n, e in header.items() if n != "__metadata__"}
            if reader.read is not resumed and any(
                bytes(t.detach().reshape(-1).view(torch.uint8).numpy())
                != saved.get(n, saved.get(WEIGHTS + n))
                for n, t in vae.tensors().items()
            ):
                result = "WRONG: taken, with other weights"
        reader.vae = None
    used = peak() - start if can_measure else 0
    over = used - 2 * len(damaged) - ALLOWANCE
    return ("WRONG: memory" if over > 0 else result), used


WATCHED = {
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "marshal.loads",
}


def work(first, count):
    """Read files one after another; a line for each."""
    ran = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYROVAE_MARK"] = mark = str(Path(folder) / "mark")
        ways = readers(folder)
        for reader in ways.values():  # what the first call imports and allocates is no file's
            tried(reader, reader.whole, False, folder)
            tried(reader, reader.whole[:-3], False, folder)
        sys.addaudithook(lambda event, _: ran.append(event) if event in WATCHED else None)
        for number in range(first, first + count):
            name, kind = case_of(number)
            print(f"{number} ...", flush=True)
            reader = ways[name]
            ran.clear()
            damaged = kind(reader.whole, random.Random(number))
            ran.clear()
            result, used = tried(reader, damaged, kind.__name__ in ACCIDENTS, folder)
            if ran or Path(mark).exists():
                result = f"WRONG: ran {ran or 'code'}"
                Path(mark).unlink(missing_ok=True)
            print(f"{number} {json.dumps([name, kind.__name__, result, used, len(damaged)])}", flush=True)


def case_of(number):
    """Which reader gets which kind of damage."""
    pairs = list(itertools.product(("VAE", "derived", "frame", "training", "weights"), KINDS))
    return pairs[number % len(pairs)]


def run(first, count, timeout=600):
    """Lines of results, over as many processes as die."""
    results, last = [], first + count
    while first < last:
        command = [
            sys.executable,
            "-m",
            "tests.robustness.fuzzed_files",
            "--work",
            str(first),
            str(last - first),
        ]
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        lines = [line.split(" ", 1) for line in child.stdout.splitlines()]
        done = [json.loads(rest) for _, rest in lines if rest != "..."]
        results += done
        if child.returncode == 0:
            break
        if child.returncode > 0:  # not killed by a signal: a mistake of this file
            raise RuntimeError(child.stderr)
        first = int(lines[-1][0])
        name, kind = case_of(first)
        results.append(
            [name, kind.__name__, f"WRONG: CRASH {child.returncode} at {first}: {child.stderr[-300:]}", 0, 0]
        )
        first += 1
    return results


def table(results):
    """By kind of damage: files, refused, taken, other, and the most memory beyond what the process had."""
    lines = [f"{'':24s} files refused taken non-finite wrong  MB"]
    for kind in [*[k.__name__ for k in KINDS], "all"]:
        own = [r for r in results if kind in (r[1], "all")]
        counts = Counter(r[2].split(":")[0].split()[0] for r in own)
        most = max((r[3] for r in own), default=0) / 2**20
        numbers = [counts[n] for n in ("refused", "taken", "went", "WRONG")]
        lines.append(
            f"{kind:24s} {len(own):5d} {numbers[0]:7d} {numbers[1]:5d} {numbers[2]:10d} {numbers[3]:5d} {most:3.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(int(sys.argv[2]), int(sys.argv[3]))
    else:
        found = run(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1]), timeout=None)
        print(table(found))
        wrong = [r for r in found if r[2].startswith("WRONG")]
        for name, kind, what, *_ in wrong[:50]:
            print(name, kind, what)
        sys.exit(bool(wrong))
