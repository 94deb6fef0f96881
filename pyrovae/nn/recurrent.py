"""Recurrent networks over ragged sequences: a GRU with a state for each step, and an encoder to vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import Heads, Outputs
from pyrovae.nn.ragged import step_mask


class GRU(nn.Module):
    """Gated recurrent units over sequences [..., T, in_features]: a state for each step, [..., T, H].

    The state of step t is a function of the steps 1 to t (`past`), of the steps t to the row's last one
    (`future`), or the two states joined, of both. Padding beyond a row's length is never read, and its
    states are 0.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation" (2014), https://arxiv.org/abs/1406.1078.

    Args:
        in_features: size of each step.
        hidden_size: size of the state of each direction.
        past: let the states know what came before.
        future: let the states know what comes after.
        num_layers: layers of each direction.
        missing: steps may lack entries (NaN): the networks read zeros there and, beside each step, which entries are
            present.

    Raises:
        ValueError: neither past nor future; at a call, steps of another size or lengths beyond T.

    Example:
        >>> network = GRU(3, 16, future=True)
        >>> network(torch.zeros(5, 7, 3), torch.tensor([7, 1, 2, 3, 4])).shape, network.out_features
        (torch.Size([5, 7, 32]), 32)

    """

    def __init__(
        self,
        in_features: int,
        hidden_size: int,
        *,
        past: bool = True,
        future: bool = False,
        num_layers: int = 1,
        missing: bool = False,
    ) -> None:
        super().__init__()
        if not (past or future):
            raise ValueError("GRU got past=False and future=False: expected at least one of the two.")
        self.in_features = in_features
        self.missing = missing
        self.out_features = hidden_size * (past + future)
        read = in_features * (1 + missing)
        self.past = nn.GRU(read, hidden_size, num_layers, batch_first=True) if past else None
        self.future = nn.GRU(read, hidden_size, num_layers, batch_first=True) if future else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Steps [..., T, in_features] and lengths [...] (None: all are full) -> states [..., T, H]."""
        if x.dim() < 2 or x.shape[-1] != self.in_features:
            raise ValueError(f"GRU takes sequences [..., T, {self.in_features}] and got {list(x.shape)}.")
        if self.missing:
            present = ~x.isnan()
            x = torch.cat([x.where(present, 0.0), present.to(x.dtype)], -1)
        num_steps = x.shape[-2]
        if lengths is None:
            mask = torch.ones(num_steps, dtype=torch.bool, device=x.device)
        else:
            mask = step_mask(lengths, num_steps)
        leading = torch.broadcast_shapes(x.shape[:-2], mask.shape[:-1])
        mask = mask.expand(*leading, -1).reshape(-1, num_steps, 1)
        # Zeros in place of padding, so that a NaN there reaches no gradient.
        flat = x.expand(*leading, *x.shape[-2:]).reshape(-1, *x.shape[-2:]).where(mask, 0.0)
        states = []
        if self.past is not None:
            states.append(self.past(flat)[0])
        if self.future is not None:
            states.append(_reverse(self.future(_reverse(flat, mask))[0], mask))
        joined: Tensor = torch.cat(states, -1).where(mask, 0.0)
        return joined.reshape(*leading, *joined.shape[1:])


class SequenceEncoder(nn.Module):
    """Ragged sequences [..., T, in_features] to vectors [..., out_features].

    Linear heads, as those of `MLP`, over the last states of a `GRU` in each direction.

    Args:
        in_features: size of each step, after the embedding.
        out_features: size of the output, or a tuple of sizes.
        hidden_size: size of the state of each direction.
        embedding: a module applied to x first, e.g. `nn.Embedding` for tokens [..., T]; padding reaches it
            as 0.
        num_layers: layers of each direction.

    Raises:
        ValueError: at a call, steps of another size or lengths beyond T.

    Example:
        >>> lengths = torch.tensor([7, 1, 2, 3, 4])
        >>> SequenceEncoder(3, 8, hidden_size=16)(torch.zeros(5, 7, 3), lengths).shape
        torch.Size([5, 8])
        >>> tokens = SequenceEncoder(4, (8, 8), hidden_size=16, embedding=nn.Embedding(10, 4))
        >>> loc, raw = tokens(torch.zeros(5, 7, dtype=torch.long), lengths)

    """

    def __init__(
        self,
        in_features: int,
        out_features: int | Sequence[int],
        hidden_size: int,
        *,
        embedding: nn.Module | None = None,
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.states = GRU(in_features, hidden_size, future=True, num_layers=num_layers)
        self.heads = Heads(self.states.out_features, out_features)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Outputs:
        """Steps and lengths [...] (None: all are full) -> [..., out_features], or a tuple of such."""
        if self.embedding is not None:
            x = self.embedding(x if lengths is None else x * step_mask(lengths, x.shape[-1]))
        states = self.states(x, lengths)
        past, future = states.chunk(2, -1)
        if lengths is None:
            last = past[..., -1, :]
        else:
            # Not an index by length alone: a length that validation did not look at must not read elsewhere.
            place = (lengths - 1).clamp(0, x.shape[-2] - 1)
            place = place.expand(states.shape[:-2])[..., None, None].expand(
                *past.shape[:-2], 1, past.shape[-1]
            )
            last = past.gather(-2, place).squeeze(-2)
        outputs: Outputs = self.heads(torch.cat([last, future[..., 0, :]], -1))
        return outputs


def _reverse(steps: Tensor, mask: Tensor) -> Tensor:
    """The real steps of each row in reverse, its padding left in place; [N, T, features] and [N, T, 1]."""
    place = torch.arange(steps.shape[1], device=steps.device).unsqueeze(-1)
    place = (mask.sum(1, keepdim=True) - 1 - place).where(mask, place)
    return steps.gather(1, place.expand_as(steps))
