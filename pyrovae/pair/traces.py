"""Running a program once on some rows. Pyro's traces are made and read here, and in `enumeration` alone beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.absence import integrated_out
from pyrovae.pair.handlers import Message, RowsAsGiven, subsampling
from pyrovae.pair.programs import Program
from pyrovae.pair.sites import Site


def sites_of(program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None) -> dict[str, Site]:
    """What one run of a program gives on these rows, by sample statement; densities are not computed.

    Latents are drawn; those that are given, in Pyro's layout, are taken.
    """
    return sites_in(trace_of(program, batch, latents))


def trace_of(program: Program, batch: Batch, latents: Mapping[str, Tensor] | None = None) -> Trace:
    """One run on the rows as they are, without a samples plate; densities not computed."""
    if latents is not None:
        program = given(program, latents)
    with as_given(batch):
        trace: Trace = poutine.trace(program).get_trace(*batch.arguments)
    return trace


@contextmanager
def as_given(batch: Batch) -> Iterator[None]:
    """Programs run here take these rows: their number, and what is absent in them."""
    with RowsAsGiven(len(batch)), integrated_out(batch):
        yield


def sites_in(trace: Trace) -> dict[str, Site]:
    """The sample statements of a trace that carry a density: no subsampling, no deterministic sites."""
    messages = {name: cast("Message", message) for name, message in trace.nodes.items()}
    return {
        name: site_of(message)
        for name, message in messages.items()
        if message["type"] == "sample"
        and not subsampling(message)
        and not message["infer"].get("_deterministic")
    }


def site_of(message: Message) -> Site:
    """One statement of a run."""
    return Site(
        name=message["name"],
        observed=message["is_observed"],
        value=cast("Tensor", message["value"]),
        distribution=message["fn"],
        mask=message["mask"],
        plates=tuple(frame for frame in message["cond_indep_stack"] if frame.vectorized),
        infer=message["infer"],
        scale=message["scale"],
        args=message["args"],
        kwargs=message["kwargs"],
    )


def given(program: Program, latents: Mapping[str, Tensor]) -> Program:
    """The program, with these values of latents in place of draws; contiguous, as draws are, for `.view` to work."""
    trace = Trace()
    for name, value in latents.items():
        value = value.contiguous()
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    replayed: Program = poutine.replay(program, trace=trace)
    return replayed
