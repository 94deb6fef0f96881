"""What was compiled before is remembered by graph and inputs, where torch's compiler keeps its cache."""

import pytest
import torch
from torch.fx import symbolic_trace

from pyrovae.traced import account
from pyrovae.traced import traced as module
from pyrovae.traced.compiled_before import Before, compiled_before, remember
from pyrovae.traced.outcome import Kind
from pyrovae.traced.policy import Policy
from pyrovae.traced.traced import Traced
from tests.pairs import binary_rows, composed

FOLDER = "pyrovae.traced.compiled_before._folder"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(FOLDER, lambda: tmp_path / "cache")
    return tmp_path / "cache"


def graph_of(power):
    return symbolic_trace(lambda x: (x**power).sum())


def test_a_graph_is_known_once_it_was_remembered_and_others_are_not(folder):
    graph, x = graph_of(2), [torch.zeros(3, 2)]
    assert compiled_before(graph, x) is Before.NOTHING
    remember(graph, x)
    assert compiled_before(graph, x) is Before.THIS
    assert compiled_before(graph_of(2), [torch.ones(3, 2)]) is Before.THIS  # values do not matter
    assert compiled_before(graph_of(3), x) is Before.OTHERS
    assert compiled_before(graph, [torch.zeros(2, 3)]) is Before.OTHERS
    assert compiled_before(graph, [torch.zeros(2, 3).t()]) is Before.OTHERS
    assert compiled_before(graph, [x[0].double()]) is Before.OTHERS


def test_where_nothing_can_be_written_nothing_is_remembered(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(FOLDER, lambda: tmp_path / "file")
    graph, x = graph_of(2), [torch.zeros(3)]
    remember(graph, x)
    assert compiled_before(graph, x) is Before.NOTHING


def test_the_folder_is_the_compilers(monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    from pyrovae.traced import compiled_before as before

    monkeypatch.undo()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert str(before._folder()) == default_cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere/else")
    assert str(before._folder()) == "/somewhere/else"


def test_what_was_compiled_before_pays_sooner():
    graph = graph_of(2)
    for node in graph.graph.nodes:
        node.meta["tensor_meta"] = torch.zeros(10**7)  # numbers that it gives
    even = {
        before: next(n for n in range(1, 10**5) if account.pays_off(graph, n, before)) for before in Before
    }
    assert even[Before.THIS] < even[Before.OTHERS] < even[Before.NOTHING]


def test_a_function_is_compiled_where_it_is_known_and_gives_the_same(folder, monkeypatch):
    monkeypatch.setattr(module, "tracing_pays_off", lambda work, calls, **_: True)
    monkeypatch.setattr(module, "pays_off", lambda graph, calls, before: before is Before.THIS)
    monkeypatch.setattr(module, "compiled", lambda graph, inputs: graph.forward)
    vae = composed()
    vae.rows(binary_rows(4))

    def traced(compile):
        policy = Policy("calls", compile, 1000, 1, 1e-5)
        return Traced(vae, lambda arguments: [arguments[0] * 2.0], policy)

    x = torch.rand(4)
    found = []
    for compile, kind in (("auto", Kind.TRACED), (True, Kind.COMPILED), ("auto", Kind.COMPILED)):
        function = traced(compile)
        found.append(function([x])[0])
        assert function.outcome.kind is kind
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
