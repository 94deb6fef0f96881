"""torch's random state: drawing from seeds without leaving a trace, and seeds for the many things that one decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyrovae.checks import check_seed
from pyrovae.turn import TURN


@contextmanager
def fixed_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed` inside and leave torch's random state as it was outside.

    Raises:
        ValueError: `seed` is no whole number of 64 bits.

    """
    check_seed(seed)
    devices = [device] if device.type == "cuda" else []
    with TURN, torch.random.fork_rng(devices=devices):
        set_seed(seed, device)
        yield


def set_seed(seed: int, device: torch.device) -> None:
    """Draw from `seed` from now on, on the CPU and on this device; `torch.manual_seed` would touch all GPUs."""
    seed = int(seed)  # NumPy's whole numbers are none to torch
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Draw on from torch's random state inside and put it back afterwards."""
    with TURN, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def drawn_seed() -> int:
    """A seed from torch's random state as it is outside all turns."""
    with TURN:
        return int(torch.randint(2**62, ()))


def seeds_from(seed: int | None) -> Iterator[int]:
    """An endless stream of seeds; the only draw from torch's own random state is one at once, without a seed.

    Raises:
        ValueError: `seed` is no whole number of 64 bits.

    """
    check_seed(seed)
    return _endless(drawn_seed() if seed is None else int(seed))


def _endless(seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (), generator=generator, device="cpu"))


def seed_of(seed: int, number: int) -> int:
    """The seed of one of the many things that `seed` decides."""
    generator = torch.Generator().manual_seed(int(seed))
    return int(torch.randint(2**62, (number + 1,), generator=generator, device="cpu")[-1])


def noise_state(device: torch.device) -> Tensor:
    """torch's random state, of the CPU and of a GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_noise_state(state: Tensor, device: torch.device) -> None:
    """The inverse of `noise_state`."""
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[own:], device)


def is_noise_state(state: Tensor, device: torch.device) -> bool:
    """Whether `set_noise_state` takes it, on a device of this kind."""
    own = len(torch.get_rng_state())
    if state.dtype != torch.uint8 or state.shape != noise_state(device).shape:
        return False
    try:
        torch.Generator().set_state(state[:own])
        if device.type == "cuda":
            torch.Generator(device).set_state(state[own:])
    except RuntimeError:
        return False
    return True
