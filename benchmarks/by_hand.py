"""The models of the training benchmark as people write them in plain PyTorch: nothing of Pyro or pyrovae in them.

Each module gives (log p(x|z), rate) of one draw of z for each row, [B] each, with closed-form rates where there
are any. Parameters come in the order of the declared pair's, so that weights can be copied over.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus

UNIT, SMALLEST = 0.5413248546129181, 1e-6


def scale_of(raw: Tensor) -> Tensor:
    return softplus(raw + UNIT) + SMALLEST


def drawn(location: Tensor, scale: Tensor) -> Tensor:
    return location + torch.randn_like(location) * scale


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def rate_to_standard(location: Tensor, scale: Tensor) -> Tensor:
    return (0.5 * (location.square() + scale.square() - 1) - scale.log()).sum(-1)


def rate_between(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    ratio = (q[1] / p[1]).square()
    return 0.5 * (((q[0] - p[0]) / p[1]).square() + ratio - 1 - ratio.log()).sum(-1)


def log_normal_ratio(z: Tensor, q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """log q(z) - log p(z): the constants cancel."""
    of_q = -0.5 * ((z - q[0]) / q[1]).square() - q[1].log()
    of_p = -0.5 * ((z - p[0]) / p[1]).square() - p[1].log()
    return (of_q - of_p).sum(-1)


class TwoHeads(nn.Module):
    """A body, and linear heads for location and raw scale."""

    def __init__(self, body: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.body = body
        self.location, self.raw = nn.Linear(width, size), nn.Linear(width, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale."""
        hidden = self.body(x)
        return self.location(hidden), scale_of(self.raw(hidden))


def perceptron(*sizes: int) -> nn.Sequential:
    """Hidden layers, each with its ReLU."""
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers)


class OneLatent(nn.Module):
    """p(z) p(x|z) with a standard normal prior and Bernoulli pixels."""

    def __init__(self, decoder: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        location, scale = self.encoder(x)
        logits = self.decoder(drawn(location, scale))
        return log_bernoulli(logits, x), rate_to_standard(location, scale)


def perceptrons(size: int, hidden: int, latent: int) -> OneLatent:
    decoder = nn.Sequential(*perceptron(latent, hidden), nn.Linear(hidden, size))
    return OneLatent(decoder, TwoHeads(perceptron(size, hidden), hidden, latent))


def convolutions(latent: int, inner: int, outer: int) -> OneLatent:
    """Images of 28 by 28; `inner` and `outer` channels of the convolutions."""
    decoder = nn.Sequential(
        nn.Linear(latent, outer * 49),
        nn.Unflatten(1, (outer, 7, 7)),
        nn.ReLU(),
        nn.ConvTranspose2d(outer, inner, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(inner, 1, 4, 2, 1),
    )
    body = nn.Sequential(
        nn.Conv2d(1, inner, 4, 2, 1), nn.ReLU(), nn.Conv2d(inner, outer, 4, 2, 1), nn.ReLU(), nn.Flatten()
    )
    return OneLatent(decoder, TwoHeads(body, outer * 49, latent))


class SemiSupervised(nn.Module):
    """p(z) p(y) p(x|y,z) with uniform labels, which are summed out where they are NaN, and q(z|x)."""

    def __init__(self, size: int, hidden: int, latent: int, classes: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*perceptron(latent + classes, hidden), nn.Linear(hidden, size))
        self.encoder = TwoHeads(perceptron(size, hidden), hidden, latent)
        self.classes = classes

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        location, scale = self.encoder(x)
        z = drawn(location, scale)
        every, known = torch.arange(self.classes, device=x.device)[:, None], ~y.isnan()
        labels = torch.where(known, y.nan_to_num().long(), every)
        codes = one_hot(labels, self.classes).to(x)
        logits = self.decoder(torch.cat([z.expand(self.classes, *z.shape), codes], -1))
        terms = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_likelihood = torch.where(known, terms[0], terms.logsumexp(0)) - math.log(self.classes)
        return log_likelihood, rate_to_standard(location, scale)


class TwoLevels(nn.Module):
    """p(z1) p(z2|z1) p(x|z2) and the bottom-up q(z2|x) q(z1|z2)."""

    def __init__(self, size: int, hidden: int, latent: int, between: int, top: int) -> None:
        super().__init__()
        self.prior = TwoHeads(perceptron(top, between), between, latent)
        self.decoder = nn.Sequential(*perceptron(latent, hidden), nn.Linear(hidden, size))
        self.upper = TwoHeads(perceptron(latent, between), between, top)
        self.lower = TwoHeads(perceptron(size, hidden), hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        q2 = self.lower(x)
        z2 = drawn(*q2)
        q1 = self.upper(z2)
        p2 = self.prior(drawn(*q1))
        rate = rate_to_standard(*q1) + log_normal_ratio(z2, q2, p2)
        return log_bernoulli(self.decoder(z2), x), rate


class GatedMove(nn.Module):
    """The gated transition of Krishnan, Shalit, Sontag (2017)."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(*perceptron(latent, hidden), nn.Linear(hidden, latent))
        self.proposal = nn.Sequential(*perceptron(latent, hidden), nn.Linear(hidden, latent))
        self.linear, self.raw = nn.Linear(latent, latent), nn.Linear(latent, latent)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the next state."""
        gate, proposal = torch.sigmoid(self.gate(z)), self.proposal(z)
        location = (1 - gate) * self.linear(z) + gate * proposal
        return location, scale_of(self.raw(torch.relu(proposal)))


class Reader(nn.Module):
    """q(z_t|z_{t-1}, h_t) along the steps, with states h_t of the past and the future."""

    def __init__(self, size: int, latent: int, hidden: int, state: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(latent))
        self.past = nn.GRU(size, state, batch_first=True)
        self.future = nn.GRU(size, state, batch_first=True)
        self.step = TwoHeads(perceptron(latent + 2 * state, hidden), hidden, latent)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, locations and scales of all steps."""
        steps = torch.arange(x.shape[1], device=x.device)
        last = lengths.unsqueeze(1) - 1
        back = torch.where(steps <= last, last - steps, steps).unsqueeze(2)
        past, _ = self.past(x)
        future, _ = self.future(x.gather(1, back.expand_as(x)))
        states = torch.cat([past, future.gather(1, back.expand_as(future))], 2)
        z, found = self.before.expand(len(x), -1), []
        for state in states.unbind(1):
            location, scale = self.step(torch.cat([z, state], 1))
            z = drawn(location, scale)
            found.append((z, location, scale))
        latents, locations, scales = zip(*found, strict=True)
        return torch.stack(latents, 1), torch.stack(locations, 1), torch.stack(scales, 1)


class DeepMarkov(nn.Module):
    """A latent chain beside a padded sequence."""

    def __init__(self, size: int, latent: int, hidden: int, state: int) -> None:
        super().__init__()
        self.first = nn.ParameterList([torch.zeros(latent), torch.zeros(latent)])
        self.move = GatedMove(latent, hidden)
        self.emission = nn.Sequential(*perceptron(latent, hidden), nn.Linear(hidden, size))
        self.reader = Reader(size, latent, hidden, state)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        z, location, scale = self.reader(x, lengths)
        moved_location, moved_scale = self.move(z[:, :-1])
        first_location, first_scale = self.first[0], scale_of(self.first[1])
        prior_location = torch.cat([first_location.expand(len(x), 1, -1), moved_location], 1)
        prior_scale = torch.cat([first_scale.expand(len(x), 1, -1), moved_scale], 1)
        rates = rate_between((location, scale), (prior_location, prior_scale))
        logits = self.emission(z)
        log_likelihoods = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(2)
        real = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        return (log_likelihoods * real).sum(1), (rates * real).sum(1)
