"""Plain PyTorch, by hand: operation by operation, compiled, and in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals.epochs import RATE, AbsentError, Epoch, Rows, batches, quiet, timed
from benchmarks.training_tasks import Task


def by_hand(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch, operation by operation."""
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def train() -> float:
        total = torch.zeros((), device=device)
        for batch in batches(task, rows, device):
            optimizer.zero_grad()
            log_likelihood, rate = model(*batch)
            loss = (rate - log_likelihood).mean()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return timed(train, device)


def by_hand_compiled(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch, its loss through `torch.compile`, forward and backward; compiled before it is timed."""
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def mean_loss(*batch: Tensor) -> Tensor:
        log_likelihood, rate = model(*batch)
        return (rate - log_likelihood).mean()

    with quiet():
        loss_of = torch.compile(mean_loss, dynamic=False)
        loss_of(*(values[: task.batch] for values in rows)).backward()

    def train() -> float:
        total = torch.zeros((), device=device)
        for batch in batches(task, rows, device):
            optimizer.zero_grad()
            loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return timed(train, device)


def by_hand_graphed(task: Task, rows: Rows, device: torch.device) -> Epoch:
    """Plain PyTorch with forward and backward pass and Adam in one CUDA graph."""
    if device.type != "cuda":
        raise AbsentError("CUDA graphs need a GPU")
    model = task.hand(rows, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True, capturable=True)
    held = tuple(values[: task.batch].clone() for values in rows)
    total = torch.zeros((), device=device)

    def step() -> None:
        log_likelihood, rate = model(*held)
        loss = (rate - log_likelihood).mean()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(beside)
    recorded = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)  # so that the graph writes gradients and does not add them up
    with torch.cuda.graph(recorded):
        step()

    def train() -> float:
        total.zero_()
        for places in torch.randperm(len(rows[0]), device=device).split(task.batch):
            for place, values in zip(held, rows, strict=True):
                torch.index_select(values, 0, places, out=place)
            recorded.replay()
        return total.item()

    return timed(train, device)
