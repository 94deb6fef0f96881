"""Whether a tensor that a trace has met is the same in each call, so that its values may be looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, get_proxy_slot


def read_as_constant(look: Callable[[], object], tensor: object) -> object:
    """What looking at a tensor gives, where it was made of no inputs and no random numbers.

    Raises:
        LookupError: it was, or something that it was made of was changed in place.

    """
    mode = get_proxy_mode()
    if mode is None or not isinstance(tensor, Tensor):
        raise LookupError
    proxy = get_proxy_slot(tensor, mode.tracer, None, lambda held: held.proxy.node)
    if proxy is not None and not _is_constant(proxy):
        raise LookupError
    with disable_proxy_modes_tracing():
        return look()


def _is_constant(node: Node) -> bool:
    seen, nodes = set[Node](), [node]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder" or _is_random(node) or any(map(_changes, (node, *node.users))):
            return False
        nodes.extend(node.all_input_nodes)
    return True


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _changes(node: Node) -> bool:
    """Whether an operation changes one of its arguments in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
