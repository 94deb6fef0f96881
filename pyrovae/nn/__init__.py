"""Networks for encoders and decoders. They accept any leading dimensions, and several inputs."""

from pyrovae.nn.autoregressive import AutoregressiveGRU
from pyrovae.nn.convolution import ConvDecoder, ConvEncoder
from pyrovae.nn.gated import GatedTransition
from pyrovae.nn.missing import MissingAsZero
from pyrovae.nn.mlp import MLP, join
from pyrovae.nn.positive import PositiveParameter, positive
from pyrovae.nn.ragged import step_mask
from pyrovae.nn.recurrent import GRU, SequenceEncoder
from pyrovae.nn.standardize import Standardize
from pyrovae.nn.units import Units

__all__ = [
    "GRU",
    "MLP",
    "AutoregressiveGRU",
    "ConvDecoder",
    "ConvEncoder",
    "GatedTransition",
    "MissingAsZero",
    "PositiveParameter",
    "SequenceEncoder",
    "Standardize",
    "Units",
    "join",
    "positive",
    "step_mask",
]
