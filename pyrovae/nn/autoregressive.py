"""The recurrent decoder of token sequences: each step's logits from the tokens before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import join_features


class AutoregressiveGRU(nn.Module):
    """Logits of each token given the tokens before it and the inputs z, [..., T, V], in one pass.

    The inputs set the first state and enter every step beside the token before: Bowman et al., "Generating
    Sentences from a Continuous Space" (2016), https://arxiv.org/abs/1511.06349.

    Args:
        in_features: K: size of the inputs' last dimension, all inputs together.
        num_categories: V: tokens are 0 to V - 1.
        hidden_size: size of the recurrent state.
        embedding_size: size of a token's embedding; `hidden_size` if None.

    Raises:
        ValueError: at a call, inputs of another size.

    Example:
        >>> network = AutoregressiveGRU(2, num_categories=10, hidden_size=16)
        >>> network(torch.zeros(5, 7, dtype=torch.long), torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5, 7, 10])

    """

    def __init__(
        self, in_features: int, num_categories: int, hidden_size: int, embedding_size: int | None = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_categories = num_categories
        embedding_size = hidden_size if embedding_size is None else embedding_size
        # One category more: what stands before the first token.
        self.embedding = nn.Embedding(num_categories + 1, embedding_size)
        self.first_state = nn.Linear(in_features, hidden_size)
        self.recurrence = nn.GRU(embedding_size + in_features, hidden_size, batch_first=True)
        self.logits = nn.Linear(hidden_size, num_categories)

    def forward(self, tokens: Tensor, *inputs: Tensor) -> Tensor:
        """Tokens [..., T] and inputs [..., K] -> logits [..., T, V]."""
        given = join_features("AutoregressiveGRU", self.in_features, inputs)
        state, first = self.start(given)
        before = torch.cat([first.expand(*tokens.shape[:-1], 1), tokens[..., :-1]], -1)
        return self.advance(before, state, given)[0]

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The first state [..., H] for inputs [..., K], and what stands before the first token, [1]."""
        first = torch.full((1,), self.num_categories, device=inputs.device)
        return torch.tanh(self.first_state(inputs)), first

    def advance(self, before: Tensor, state: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens before each of some steps, [..., T], and the state there -> their logits and the next state."""
        leading = torch.broadcast_shapes(before.shape[:-1], inputs.shape[:-1])
        num_steps = before.shape[-1]
        embedded = self.embedding(before).expand(*leading, num_steps, -1)
        beside = inputs.unsqueeze(-2).expand(*leading, num_steps, -1)
        flat = torch.cat([embedded, beside], -1).reshape(-1, num_steps, self.recurrence.input_size)
        state = state.expand(*leading, -1).reshape(1, -1, self.recurrence.hidden_size)
        states, state = self.recurrence(flat, state.contiguous())
        logits: Tensor = self.logits(states)
        return logits.reshape(*leading, num_steps, -1), state.reshape(*leading, -1)
