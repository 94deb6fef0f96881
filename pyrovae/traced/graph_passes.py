"""Smaller graphs with the same values: what a trace repeats, and what it does to no effect, is taken out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import Argument, Target

_ATEN = torch.ops.aten
# No effect once nothing is differentiated.
_DETACHING = (_ATEN.detach.default, _ATEN.alias.default)
_NEUTRAL = {
    _ATEN.add.Tensor: 0,
    _ATEN.sub.Tensor: 0,
    _ATEN.mul.Tensor: 1,
    _ATEN.mul.Scalar: 1,
    _ATEN.div.Tensor: 1,
    _ATEN.pow.Tensor_Scalar: 1,
}
# Their values depend on the shape of what they are given alone.
_FILLED = (_ATEN.ones_like.default, _ATEN.zeros_like.default, _ATEN.full_like.default)
_RESHAPING = (_ATEN.expand.default, _ATEN.view.default, _ATEN._unsafe_view.default)
_LARGEST_CONSTANT = 2**16


@torch.no_grad()
def simplify(graph: GraphModule, inputs: Sequence[Tensor]) -> GraphModule:
    """The same function in fewer operations: identities, repetitions and unused nodes removed, constants folded.

    Values are the same to the bit. The graph is meant to be run without gradients. Draws of random numbers are
    all kept, in their order, and tensors that are changed in place are left alone. Each result has memory of its
    own, so that it can be changed in place.
    """
    _declare_changes(graph)
    facts = _facts(graph, inputs)
    _remove_identities(graph, facts)
    _fold_constants(graph, facts)
    _remove_repetitions(graph, facts)
    graph.graph.eliminate_dead_code()
    _separate_results(graph, _facts(graph, inputs))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _declare_changes(graph: GraphModule) -> None:
    """Batch normalization as the operation that says of itself that it changes running statistics in place.

    The one that torch records changes them just so and does not say it, so that a compiler leaves it out.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.native_batch_norm.default):
        _, _, _, running_mean, running_var, training, *_ = node.args
        if training and isinstance(running_mean, Node) and isinstance(running_var, Node):
            node.target = _ATEN._native_batch_norm_legit.default


@dataclass(frozen=True)
class _Facts:
    """What a run without values tells of each node: its tensor (of no values) and whether memory is changed."""

    tensors: dict[Node, Tensor]
    changed: frozenset[int]

    def is_steady(self, node: Node) -> bool:
        """Whether a node is one tensor in memory that nothing changes in place."""
        tensor = self.tensors.get(node)
        return tensor is not None and _memory(tensor) not in self.changed

    def is_pure(self, node: Node) -> bool:
        """Whether a node gives the same steady tensor for the same steady arguments."""
        return (
            node.op == "call_function"
            and not node.is_impure()
            and self.is_steady(node)
            and all(self.is_steady(argument) for argument in node.all_input_nodes)
        )


class _Recorder(Interpreter):
    def __init__(self, graph: GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(graph)
        self.mode = mode
        self.tensors: dict[Node, Tensor] = {}
        self.changed: set[int] = set()

    def get_attr(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, object]) -> object:
        # As what operations take it for, so that views of it are seen to share its memory.
        value = super().get_attr(target, args, kwargs)
        return self.mode.from_tensor(value) if isinstance(value, Tensor) else value

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.tensors[n] = result
        schema = getattr(n.target, "_schema", None)
        if n.op == "call_function" and schema is not None and schema.is_mutable:
            arguments, keywords = self.fetch_args_kwargs_from_env(n)
            for place, given in enumerate(schema.arguments):
                value = arguments[place] if place < len(arguments) else keywords.get(given.name)
                if given.alias_info is not None and given.alias_info.is_write:
                    for tensor in value if isinstance(value, list | tuple) else [value]:
                        if isinstance(tensor, Tensor):
                            self.changed.add(_memory(tensor))
        return result


def _facts(graph: GraphModule, inputs: Sequence[Tensor]) -> _Facts:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = _Recorder(graph, mode)
    with mode:
        recorder.run(*(mode.from_tensor(tensor.detach()) for tensor in inputs))
    return _Facts(recorder.tensors, frozenset(recorder.changed))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _replace(graph: GraphModule, node: Node, by: Node) -> None:
    node.replace_all_uses_with(by)
    graph.graph.erase_node(node)


def _remove_identities(graph: GraphModule, facts: _Facts) -> None:
    for node in list(graph.graph.nodes):
        if not facts.is_pure(node) or not node.args or not isinstance(node.args[0], Node):
            continue
        source = node.args[0]
        neutral = _NEUTRAL.get(node.target)
        is_identity = (
            node.target in _DETACHING
            or node.target in _RESHAPING
            or (
                neutral is not None
                and not node.kwargs
                and isinstance(node.args[1], int | float)
                and node.args[1] == neutral
            )
        )
        if node.target is _ATEN.t.default and source.target is _ATEN.t.default and facts.is_pure(source):
            is_identity, source = True, source.all_input_nodes[0]
        if is_identity and _same_kind(facts.tensors[node], facts.tensors[source]):
            _replace(graph, node, source)


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.stride(), a.device) == (b.shape, b.dtype, b.stride(), b.device)


def _fold_constants(graph: GraphModule, facts: _Facts) -> None:
    """Compute now what depends on constants alone, where the result is small."""
    values: dict[Node, Tensor] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr" and facts.is_steady(node):
            values[node] = getattr(graph, node.target)
        elif not facts.is_pure(node) or facts.tensors[node].numel() > _LARGEST_CONSTANT:
            continue
        elif node.target in _FILLED:
            made = facts.tensors[node]
            given = torch.empty_strided(made.shape, made.stride(), dtype=made.dtype, device=made.device)
            values[node] = node.target(given, *node.args[1:])
        elif all(argument in values for argument in node.all_input_nodes):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*arguments, **keywords)
    for node, value in values.items():
        if node.op == "call_function" and any(user not in values for user in node.users):
            name = f"_folded_{node.name}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            facts.tensors[constant] = facts.tensors[node]
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in values)


def _remove_repetitions(graph: GraphModule, facts: _Facts) -> None:
    first: dict[Hashable, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Hashable = ("get_attr", node.target)
        elif facts.is_pure(node):
            key = (node.target, _hashable(node.args), _hashable(dict(node.kwargs)))
        else:
            continue
        if key in first:
            _replace(graph, node, first[key])
        else:
            first[key] = node


def _separate_results(graph: GraphModule, facts: _Facts) -> None:
    """Copy results that share memory with an input, a constant or one another, or with themselves."""
    *_, output = graph.graph.nodes
    taken = {_memory(t) for node, t in facts.tensors.items() if node.op in ("placeholder", "get_attr")}
    separate = []
    for result in output.args[0]:
        if isinstance(result, Node) and result in facts.tensors:
            tensor = facts.tensors[result]
            if _memory(tensor) in taken or torch._debug_has_internal_overlap(tensor) != 0:
                with graph.graph.inserting_before(output):
                    result = graph.graph.call_function(_ATEN.clone.default, (result,))
            taken.add(_memory(tensor))
        separate.append(result)
    output.args = (separate,)


def _hashable(value: object) -> Hashable:
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    return (type(value), value)
