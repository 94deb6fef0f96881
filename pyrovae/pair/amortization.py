"""Whether programs take a row for what it holds, and not for its place in the data set.

Rows come shuffled, in batches and in blocks, and a plate's indices are those of the rows at hand. So a table with one
entry for each row of the data, `loc[index]`, would be trained by one row and read by another, without a sign of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from pyro.infer.autoguide import AutoCallable, AutoGuideList
from pyro.infer.autoguide import AutoGuide as AutomaticGuide
from pyro.infer.autoguide.effect import AutoMessenger
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyrovae.data import Batch
from pyrovae.pair.handlers import PlateIndices
from pyrovae.pair.independence import same
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site
from pyrovae.pair.traces import sites_of
from pyrovae.random_state import fixed_seed

_INSTEAD = (
    "Have the guide compute it from x; or leave the guide out, VAE(model), for one that is derived; pyrovae.refine "
    "gives single rows posteriors of their own afterwards. Or train by plain pyro.infer.SVI."
)

# What Pyro itself asks of a plate's indices.
_LENGTHS = (Tensor.size, Tensor.__len__)


def refuse_automatic_rows(guide: Program, rows: Collection[str] | None) -> None:
    """Raise where one of Pyro's own automatic guides draws latents of rows: it has parameters for them and none for x.

    Those of latents that all rows share are what these guides are for. `rows` are the latents by row, which are looked
    for among the sites of guides that have run; None where there are no others.

    Raises:
        TypeError: with the class, and what to do.

    """
    for part in guide.modules() if isinstance(guide, nn.Module) else ():
        # Lists of guides, and functions in them, are what they hold.
        if not isinstance(part, AutomaticGuide | AutoMessenger) or isinstance(
            part, AutoGuideList | AutoCallable
        ):
            continue
        trace = getattr(part, "prototype_trace", None)
        if rows is None or trace is None or any(name in rows for name in trace.stochastic_nodes):
            raise TypeError(
                f"the guide is Pyro's {type(part).__name__}, which does not read x: its parameters belong to the rows "
                "that it saw first, by their place. Guides of a VAE are amortized, q(z|x) as a function of x. "
                f"{_INSTEAD} Latents that all rows share, outside their plate, may have automatic guides."
            )


def check_rows_have_no_place(which: str, program: Program, sites: Mapping[str, Site], batch: Batch) -> None:
    """Raise where what a program does with a row depends on the index that its plate gives the row.

    Indices that pick rows out of `x` itself, `x[index]`, are let pass: on rows that are all alike, these give the
    same whatever their order, and what still differs is read from elsewhere.

    Args:
        which: "model" or "guide".
        program: one that has passed the checks of its plates.
        sites: what it gave on these rows.
        batch: a few rows.

    Raises:
        ValueError: with the plate, the site, and what to do.

    """
    plate = next((site.row_plate for site in sites.values() if site.row_plate is not None), None)
    if plate is None or len(batch) < 2:
        return
    in_order = torch.arange(len(batch), device=batch.device)
    watched = in_order.as_subclass(_Watched)
    _run(program, batch, plate.name, watched)
    if not watched.was_read:
        return
    alike = batch.changed(lambda tensor: tensor[:1].repeat(len(tensor), *[1] * (tensor.dim() - 1)))
    with torch.enable_grad(), _differentiable(batch.device):
        first, second = (
            _values_and_densities(_run(program, alike, plate.name, indices))
            for indices in (in_order, in_order.roll(1))
        )
        for name, tensors in first.items():
            if name not in second or not _alike(tensors, second[name]):
                raise ValueError(_message(which, name, plate.name))


class _Watched(Tensor):
    """Indices that notice when their values are read."""

    was_read = False

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func not in _LENGTHS:
            for argument in tree_leaves((args, kwargs)):
                if isinstance(argument, cls):
                    argument.was_read = True
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _run(program: Program, batch: Batch, plate: str, indices: Tensor) -> dict[str, Site]:
    """The sites of a run in which the row plate has these indices; of all such runs with the same random numbers."""

    def with_indices(*arguments: object) -> None:
        with PlateIndices(plate, indices):
            program(*arguments)

    with fixed_seed(0, batch.device):
        return sites_of(with_indices, batch)


def _differentiable(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU, cuDNN's recurrent networks have no gradients in evaluation mode; torch's own have."""
    return torch.backends.cudnn.flags(enabled=False) if device.type == "cuda" else nullcontext()


def _values_and_densities(sites: Mapping[str, Site]) -> dict[str, list[Tensor]]:
    # At once after the run: some transforms can score their last draw alone.
    return {name: [site.value, site.log_density()] for name, site in sites.items()}


def _alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether values and densities are the same in two runs, and so are their gradients.

    Gradients tell entries of a table apart that are still the same, as where they all start at zero.
    """
    if not all(same(a, b) for a, b in zip(first, second, strict=True)):
        return False
    gradients = [_gradients(tensors) for tensors in (first, second)]
    largest = max(
        (float(g.abs().max()) for found in gradients for g in found.values() if g.numel()), default=0.0
    )
    for leaf in gradients[0].keys() & gradients[1].keys():
        a, b = (found[leaf] for found in gradients)
        # By the leaf's own size, and beyond what rounding leaves of larger terms that cancel.
        if bool(((a - b).abs() > 1e-3 * a.abs().max() + 1e-6 * largest).any()):
            return False
    return True


def _gradients(tensors: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """By parameter, of the sum of all entries, each with a weight of its own."""
    terms = [t.reshape(-1) for t in tensors if t.requires_grad]
    if not terms:
        return {}
    total = torch.stack(
        [t @ torch.linspace(1, 2, len(t), dtype=t.dtype, device=t.device) for t in terms]
    ).sum()
    leaves = _leaves(total)
    found = torch.autograd.grad(total, leaves, retain_graph=True)
    return {leaf: g.to_dense() for leaf, g in zip(leaves, found, strict=True)}


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The parameters that a tensor was made of, whoever holds them."""
    leaves, seen, nodes = [], set(), [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes.extend(following for following, _ in node.next_functions)
    return leaves


def _message(which: str, site: str, plate: str) -> str:
    found = (
        f"site '{site}' of the {which} reads which rows of plate '{plate}' it has been given, by the plate's indices. "
        "Rows come shuffled and in batches of their own, so an entry for each row of the data would be trained by "
        "other rows, without a sign of it. "
    )
    number = "hand each row its number as context, (x, torch.arange(len(x))), and index by that"
    if which == "model":
        return f"{found}What belongs to a row comes as context, model(x, c): hand it in, or {number}."
    return (
        f"{found}Guides of a VAE are amortized, q(z|x) as a function of x. {_INSTEAD} Parameters of each row's own "
        f"can be kept: {number}."
    )
