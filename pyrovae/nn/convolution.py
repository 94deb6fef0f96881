"""Convolutional networks for images: an encoder to vectors and its mirror image, a decoder from vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrovae.nn.mlp import Heads, Outputs, join, join_features


class ConvEncoder(nn.Module):
    """Images [..., C, H, W] with any leading dimensions to vectors [..., out_features].

    One convolution for each of `channels`, 4 by 4 with stride 2: each halves the image, rounding down. Then
    linear heads over what is left, as those of `MLP`: a tuple of `out_features` gives a tuple of outputs.

    Args:
        image_shape: (C, H, W).
        out_features: size of the output, or a tuple of sizes.
        channels: of the convolutions, from the image inwards.
        context_features: size of the vectors [..., context_features] that come beside the image and join
            the heads' input; 0 for none.
        activation: makes the nonlinearity after each convolution.

    Raises:
        ValueError: an image too small to be halved so often; at a call, images or context of another size.

    Example:
        >>> loc, raw = ConvEncoder((1, 28, 28), (8, 8))(torch.zeros(3, 5, 1, 28, 28))
        >>> loc.shape
        torch.Size([3, 5, 8])

    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        *,
        context_features: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        self.context_features = context_features
        depth = self.image_shape[0]
        sizes = _halved(self.image_shape, len(channels))[-1]
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(depth, width, kernel_size=4, stride=2, padding=1), activation()]
            depth = width
        self.body = nn.Sequential(*layers)
        self.heads = Heads(depth * math.prod(sizes) + context_features, out_features)

    def forward(self, image: Tensor, *context: Tensor) -> Outputs:
        """[..., C, H, W] and context [..., features] -> [..., out_features], or a tuple of such."""
        if image.shape[-3:] != self.image_shape:
            raise ValueError(
                f"ConvEncoder takes images [..., {', '.join(map(str, self.image_shape))}] and got "
                f"{list(image.shape)}. Reshape flat images with x.reshape(-1, C, H, W)."
            )
        leading = image.shape[:-3]
        features = self.body(image.reshape(-1, *self.image_shape))
        features = features.reshape(*leading, math.prod(features.shape[1:]))
        if context or self.context_features:
            given = join_features("the context of ConvEncoder", self.context_features, context)
            features = join(features, given)
        outputs: Outputs = self.heads(features)
        return outputs


class ConvDecoder(nn.Module):
    """Vectors [..., in_features] with any leading dimensions to images [..., C, H, W].

    The mirror image of `ConvEncoder` with the same `channels`: a linear layer, then a transposed convolution
    for each of them in reverse, 4 by 4 with stride 2 (the stride divides the kernel, so that no checkerboard
    comes of it: Odena et al., "Deconvolution and Checkerboard Artifacts" (2016),
    https://distill.pub/2016/deconv-checkerboard/). Several inputs broadcast against each other and are
    joined.

    Args:
        in_features: size of the inputs' last dimension, all inputs together.
        image_shape: (C, H, W); C counts the parameters, e.g. 1 for a grey image's logits.
        channels: of the convolutions, from the image inwards, as for the encoder.
        activation: makes the nonlinearity before each transposed convolution.

    Raises:
        ValueError: an image too small to be halved so often; at a call, inputs of another size.

    Example:
        >>> ConvDecoder(8, (1, 28, 28))(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 1, 28, 28])

    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.image_shape = _checked_shape(image_shape)
        depths = [self.image_shape[0], *channels]
        sizes = _halved(self.image_shape, len(channels))
        self.seed_shape = (depths[-1], *sizes[-1])
        self.seed = nn.Linear(in_features, math.prod(self.seed_shape))
        layers: list[nn.Module] = []
        for level in range(len(channels), 0, -1):
            # An odd size lost its last line when it was halved; output padding gives it back.
            odd = (sizes[level - 1][0] % 2, sizes[level - 1][1] % 2)
            up = nn.ConvTranspose2d(
                depths[level], depths[level - 1], kernel_size=4, stride=2, padding=1, output_padding=odd
            )
            layers += [activation(), up]
        self.body = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """[..., in_features] -> [..., C, H, W]."""
        joined = join_features("ConvDecoder", self.in_features, inputs)
        leading = joined.shape[:-1]
        images: Tensor = self.body(self.seed(joined).reshape(-1, *self.seed_shape))
        return images.reshape(*leading, *self.image_shape)


def _checked_shape(image_shape: Sequence[int]) -> torch.Size:
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(image_shape)}: expected (C, H, W), e.g. (1, 28, 28).")
    return torch.Size(image_shape)


def _halved(image_shape: torch.Size, times: int) -> list[tuple[int, int]]:
    """Heights and widths from the image inwards."""
    _, height, width = image_shape
    if min(height, width) < 2**times:
        raise ValueError(
            f"an image of {height} by {width} cannot be halved {times} times: expected at least {2**times} by "
            f"{2**times} for {times} channels. Give fewer channels, or pad the image."
        )
    return [(height >> level, width >> level) for level in range(times + 1)]
