"""The search of `refine`: Adam over the moves of one block of rows, from where their posteriors start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.evidence.moved_guide import Move, MovedGuide
from pyrovae.evidence.unconstrained import MakeTransform
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import row_terms, run_guide
from pyrovae.vae import VAE

# Steps whose mean ELBO is compared with that of as many before them.
WINDOW = 100
# The learning rate is divided by this at each plateau; at the last one the search is over.
DIVISOR = 4.0
PLATEAUS = 4
# Far from the posterior slopes are steep, and Adam is slow for as long as it remembers them: 100 steps, and
# each as one of no more than this (in units of the spread; of order 1 where the posterior is).
BETAS = (0.9, 0.99)
STEEPEST = 100.0
# Draws of the guide that show where a row's posterior lies and how wide it is.
DRAWS_FOR_UNITS = 100


def moves_at_start(
    vae: VAE,
    batch: Batch,
    bijections: Mapping[str, MakeTransform | None],
    *,
    full_covariance: bool,
    from_guide: bool,
) -> list[Move]:
    """Identity maps for one block of rows, in units of where the guide's draws lie; from scratch, of 0 and 1."""
    moves: list[Move] = []
    for name, site in run_guide(vae, batch, DRAWS_FOR_UNITS).items():
        latent = vae.layout.latents.get(name)
        if latent is None:
            continue
        transform, event_shape = bijections[name], latent.event_shape
        u = site.value
        if transform is not None:
            u, event_shape = transform().inv(u), transform().inverse_shape(event_shape)
        # [S, *inner plates, B, d], without the plates of other sites.
        u = u.reshape(*u.shape[: u.dim() - len(event_shape)], event_shape.numel())
        batch_dim = -min((-1, *latent.inner_dims))
        u = u.reshape(len(u), *u.shape[u.dim() - 1 - batch_dim :])
        centre, spread = u.mean(0), u.std(0)
        usual = (centre.abs() < torch.inf) & (spread > 0) & (spread < torch.inf) & from_guide
        above = {
            move.name: move.centre.shape[-1]
            for move in moves
            if set(vae.layout.latents[move.name].inner_dims) <= set(latent.inner_dims)
        }
        moves.append(
            Move(
                name,
                transform,
                event_shape,
                centre.where(usual, 0.0),
                spread.where(usual, 1.0),
                above if full_covariance else None,
            )
        )
    return moves


class Search:
    """Adam over the moves of one block of rows."""

    def __init__(
        self, pair: Pair, guide: MovedGuide, batch: Batch, samples_per_step: int, learning_rate: float
    ) -> None:
        self.pair, self.batch, self.samples_per_step = pair, batch, samples_per_step
        self.known, self.moves = guide.known, guide.of_sites()
        self.parameters = [p for move in self.moves for p in move.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, betas=BETAS)
        self.steps = 0

    def run(self, num_steps: int) -> bool:
        """Climb until the last plateau or for `num_steps`; whether it was the plateau."""
        plateaus, before = 0, None
        while plateaus < PLATEAUS and self.steps < num_steps:
            count = min(WINDOW, num_steps - self.steps)
            sums = [torch.zeros_like(parameter) for parameter in self.parameters]
            bounds = []
            for _ in range(count):
                bounds.append(self._step())
                torch._foreach_add_(sums, [parameter.detach() for parameter in self.parameters])
            now = torch.stack(bounds).double()
            if before is not None and len(now) == len(before) and not _rising(before, now):
                plateaus += 1
                for group in self.optimizer.param_groups:
                    group["lr"] /= DIVISOR
            before = now
        for parameter, total in zip(self.parameters, sums, strict=True):
            parameter.copy_(total / count)
            parameter.grad = None
        return plateaus == PLATEAUS

    def _step(self) -> Tensor:
        """One step; the ELBO of each row before it, [B]."""
        with torch.enable_grad():
            terms = row_terms(self.pair, self.batch, self.samples_per_step)
            bound = (terms.log_likelihood - terms.rate).mean(0)
            # Only these: the model's parameters and the guide's are to get no gradients.
            gradients = torch.autograd.grad(-bound.sum(), self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # A row whose density is not finite at its draws waits for better ones.
            parameter.grad = gradient.nan_to_num(0.0).clamp(-STEEPEST, STEEPEST)
        if self.steps == 0:
            self._refuse_what_no_density_reads()
        self._stretched_step()
        self.steps += 1
        return bound.detach()

    def _stretched_step(self) -> None:
        """Adam's step, longer where q has outgrown the units: a guide far too narrow must not set the pace."""
        before = [(move.shift, move.shift.clone(), move.outgrown()) for move in self.moves]
        self.optimizer.step()
        for shift, old, factor in before:
            shift.copy_(torch.lerp(old, shift, factor))

    def _refuse_what_no_density_reads(self) -> None:
        """Where log p(x, z) is flat in u, the entropy of q grows without limit and the ELBO with it."""
        for move in self.moves:
            flat = move.flat()
            if bool(flat.any()):
                by_row = flat.movedim(flat.dim() - 2, 0).flatten(1).any(1)
                row = int(self.known.first[by_row].min())
                raise ValueError(
                    f"the model's density of row {row} does not depend on some entries of its latent '{move.name}', "
                    "which a mask or padding leaves out while the guide's density counts them: an ELBO has no "
                    "maximum there. Leave the entries out of both, with pyro.poutine.mask."
                )


def _rising(before: Tensor, now: Tensor) -> bool:
    """Whether ELBOs by step and row, [W,B], rose beyond their noise: of the rows together, or of any one."""
    rise = now.mean(0) - before.mean(0)
    variance = (now.var(0) + before.var(0)) / len(now)
    rise, variance = rise[variance.isfinite()], variance[variance.isfinite()]
    together = rise.sum() > 2 * variance.sum().sqrt()
    return bool(together | (rise > 4 * variance.sqrt()).any())
