"""Data sets of the benchmarks: NumPy archives in the folder that PYROVAE_DATA names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def archive(name: str) -> dict[str, np.ndarray]:
    """The arrays of one archive, by key; ends the program with what to do where there is none."""
    folder = os.environ.get("PYROVAE_DATA")
    if not folder:
        sys.exit(
            f"PYROVAE_DATA is not set: set it to the folder that holds {name}, e.g. "
            "PYROVAE_DATA=data python -m benchmarks.prior_swap"
        )
    path = Path(folder) / name
    if not path.is_file():
        sys.exit(f"PYROVAE_DATA names {folder}, which holds no {name}.")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def static_mnist() -> tuple[Tensor, Tensor, Tensor]:
    """Statically binarized MNIST, rows [N, 784] of 0 and 1: training, validation and test rows."""
    arrays = archive("binarized_mnist.npz")
    bits = (np.unpackbits(arrays[f"x_{part}_bits"], axis=1, count=784) for part in ("train", "valid", "test"))
    train, valid, test = (torch.as_tensor(rows, dtype=torch.float32) for rows in bits)
    return train, valid, test


def jsb_chorales(part: str) -> tuple[Tensor, Tensor]:
    """Chorales of one part ("train", "valid", "test"): frames [N, T, 88], 0 beyond the lengths, and lengths [N]."""
    arrays = archive("jsb_chorales.npz")
    frames = torch.as_tensor(np.unpackbits(arrays[f"{part}_bits"], axis=1, count=88), dtype=torch.float32)
    lengths = torch.as_tensor(arrays[f"{part}_lengths"], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(frames.split(lengths.tolist()), batch_first=True), lengths


def shakespeare(num_steps: int) -> tuple[Tensor, Tensor, int]:
    """Tiny Shakespeare cut into chunks: training and test tokens, int64 [N, T], and the number of symbols."""
    arrays = archive("tiny_shakespeare.npz")
    symbols, codes = np.unique(arrays["train"], return_inverse=True)
    train, test = (
        torch.as_tensor(text[: len(text) // num_steps * num_steps]).reshape(-1, num_steps)
        for text in (codes, np.searchsorted(symbols, arrays["test"]))
    )
    return train, test, len(symbols)
