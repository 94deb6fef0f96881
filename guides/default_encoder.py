"""The encoder that a derived guide has where none is given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyrovae.data import Batch
from pyrovae.guides.features import RowFeatures, WithPresence
from pyrovae.nn import MLP, ConvEncoder


def default_encoder(batch: Batch, hidden: Sequence[int]) -> nn.Module:
    """Convolutional for images, else an MLP, on standardized input."""
    x = batch.x
    if x.dim() == 4 and not batch.context and x.is_floating_point():
        if batch.absent:
            channels, *size = x.shape[1:]
            return nn.Sequential(WithPresence(), ConvEncoder((2 * channels, *size), hidden[-1]), nn.ReLU())
        return nn.Sequential(ConvEncoder(tuple(x.shape[1:]), hidden[-1]), nn.ReLU())
    features = RowFeatures(batch.arguments)
    return _Sequential(features, MLP(features.size, hidden[-1], hidden[:-1]), nn.ReLU())


class _Sequential(nn.Sequential):
    """nn.Sequential whose first module takes several arguments."""

    def forward(self, *arguments: object) -> Tensor:
        first, *rest = self
        features: Tensor = first(*arguments)
        for module in rest:
            features = module(features)
        return features
