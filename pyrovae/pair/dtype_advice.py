"""What to do where a program met numbers of two kinds, or of one that it cannot reckon with."""

from __future__ import annotations

import re

import pyro
import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.programs import Program
from pyrovae.pair.reachable import modules_of

# As torch's messages call them.
_CALLED = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "unsigned char": torch.uint8,
    "Bool": torch.bool,
}


def dtype_advice(error: Exception, program: Program, batch: Batch) -> str:
    """In words; "" where a failure is about something else. Run it under the pair's scope."""
    text = str(error)
    if (
        "dtype" not in text and "scalar type" not in text
    ) or "'indices'" in text:  # of labels: `label_advice`
        return ""
    met = {dtype for name, dtype in _CALLED.items() if re.search(rf"\b{name}\b", text.split("\n")[0])}
    own = {tensor.dtype for tensor in _parameters(program) if tensor.is_floating_point()}
    wanted = next(iter(own)) if len(own) == 1 else torch.get_default_dtype()
    tensors = {
        "x" if place == 0 else f"context {place}": a
        for place, a in enumerate(batch.arguments)
        if isinstance(a, Tensor) and (not met or a.dtype in met)
    }
    given = {name: tensor.dtype for name, tensor in tensors.items()}
    for name, dtype in given.items():
        if dtype.is_floating_point and own and dtype not in own:
            return (
                f"{name} is {dtype} and the networks are {_listed(own)}: convert the one, {name}.to({wanted}), or the "
                f"others, with .to({dtype})."
            )
    if len(own) > 1:
        return f"The networks are {_listed(own)}: convert all to one, vae.to({wanted})."
    for name, dtype in given.items():
        if not dtype.is_floating_point:
            return (
                f"{name} holds integers ({dtype}) where the networks need {wanted}: convert it first, with "
                f"{as_float(tensors[name])}."
            )
    made = met - own - set(given.values())
    if made and not own:
        return (
            f"{' and '.join(given)} is {_listed(set(given.values()))}, and a network, or a tensor that the program "
            f"makes, {_listed(made)}: convert the one, or networks with .to(dtype); make tensors of x, x.new_zeros(2)."
        )
    if made:
        return (
            f"Data and networks are {_listed(own or set(given.values()))}, and the program makes {_listed(made)} "
            "itself, as torch.zeros(2) does of torch's default dtype: make such tensors of x, x.new_zeros(2)."
        )
    return f"Convert all to {wanted}, data with .to({wanted})."


def as_float(some: Tensor) -> str:
    """How to make floating-point numbers of a tensor such as these rows of it."""
    if some.dtype == torch.uint8 and some.numel() and int(some.max()) > 1:
        return "x.float() / 255 (8-bit images), or x / x.max()"
    return ".float(), or .astype('float32') of arrays and data frames"


def as_binary(some: Tensor) -> str:
    """How to make zeros and ones of a tensor such as these rows of it, which hold other numbers."""
    low, high = (float(end) for end in some.nan_to_num(0.0).aminmax())
    if low < 0:
        return "Binarize the data at a threshold of yours, e.g. (x > 0).float()"
    if high <= 1:
        return (
            "Binarize the data, e.g. (x > 0.5).float(), or grey pixels from 0 to 1 afresh in each batch, "
            "fit(..., transform=torch.bernoulli)"
        )
    return (
        f"Numbers from 0 to {high:g}, as of grey pixels, are brought to 0 to 1 by x / x.max(): binarize these afresh "
        "in each batch, fit(..., transform=torch.bernoulli), or once and for all, (x > x.max() / 2).float()"
    )


def _parameters(program: Program) -> list[Tensor]:
    of_modules = [p for module in modules_of(program) for p in module.parameters()]
    return [*of_modules, *(p for _, p in pyro.get_param_store().named_parameters())]


def _listed(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(map(str, dtypes)))
