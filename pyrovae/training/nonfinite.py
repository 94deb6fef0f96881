"""Losses that are NaN or infinite: where they come from, and the weights to go back to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import run_guide_with_factors, run_model
from pyrovae.pair.shared import SharedRun
from pyrovae.pair.sites import ScoredSite, Term
from pyrovae.random_state import same_random_state
from pyrovae.training.batches import Minibatch
from pyrovae.vae import VAE

# What Pyro raises for distributions with parameters that are NaN, and torch for matrices.
FAILURES = (ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
# How many batches may pass between looks at the weights, and at the losses of a GPU.
LOOK_EVERY = 50
# Runs of a pair, one of which must be finite.
_TRIES = 3
_RARE = "each site's density was finite when the pair ran once more, so that a rare draw or the gradient is to blame"
_REMEDY = (
    "Lower the learning rate, clip gradients (clip_norm=), keep scales away from 0, or skip such batches "
    "(on_nonfinite='skip')."
)


class NonFiniteLossError(FloatingPointError):
    """A training loss became NaN or infinite; the VAE holds the last good weights.

    Example:
        >>> issubclass(NonFiniteLossError, ArithmeticError)
        True

    """


class Watch:
    """Looks at the losses and the weights of a training, and undoes what is not finite.

    Where batches are left out, each is looked at before its step. Else so many losses are looked at together,
    for reading one waits for all that a GPU has still to do: it may have taken steps after a bad one by then,
    and goes back to the weights of a look before. Weights are good where the pair has a finite loss at them: a step
    that is too long leaves finite ones too, of which no loss is.

    Args:
        vae: the pair.
        every: losses that are looked at together, at most `LOOK_EVERY`.
        skips: whether bad batches are left out, or end the training.
        save_to: the file that takes the last good weights where training ends; None for no file.

    """

    def __init__(self, vae: VAE, every: int, *, skips: bool, save_to: Path | None) -> None:
        self.skipped = 0
        self._vae, self._every, self._skips, self._save_to = vae, every, skips, save_to
        tensors, self._buffers = [*vae.parameters(), *vae.buffers()], list(vae.buffers())
        # A buffer may hold infinities from the first, such as a mask's.
        self._looked_at = [t for t in tensors if t.is_floating_point() and all_finite([t])]
        # What the last look saw may be bad all the same; what a loss has been computed at since then is not.
        self._good, self._newer = Snapshot(tensors), Snapshot(tensors)
        self._before = Snapshot(self._buffers if skips else [])
        self._finite: Minibatch | None = None  # the last batch of a finite loss
        self._is_confirmed = False
        self._unseen: list[tuple[int, int, Minibatch, Tensor]] = []
        self._since_look = 0

    def begin(self) -> None:
        """Before a batch is run: one that is left out shall leave nothing in running statistics."""
        self._before.take()

    def see(
        self, step: int, epoch: int, minibatch: Minibatch, loss: Tensor, gradients: Sequence[Tensor | None]
    ) -> bool:
        """Whether a step may be taken by these gradients, with `step` steps and `epoch` epochs behind it.

        Raises:
            NonFiniteLossError: some loss or weight since the last look is not finite, and none is left out.

        """
        good = True
        if self._skips:
            good = all_finite([loss, *(g for g in gradients if g is not None)])
            if good:
                self._has_finite_loss(minibatch)
            else:
                self.skipped += 1
                self._before.put_back()
        else:
            # A CUDA graph writes its next loss where it wrote this.
            self._unseen.append((step, epoch, minibatch, loss.clone() if self._every > 1 else loss))
            if len(self._unseen) == self._every:
                self._look_at_losses()
        self._since_look += 1
        if self._since_look == LOOK_EVERY:
            self.look(step, epoch)
        return good

    def look(self, step: int, epoch: int) -> None:
        """Look at all that has not been looked at, and keep the weights; raises as `see`."""
        self._look_at_losses()
        self._since_look = 0
        if not all_finite(self._looked_at):
            # A gradient spoilt them and no loss has been computed since.
            raise self.failure(f"after step {step} (epoch {epoch + 1}), ", None)
        if self._is_confirmed:
            self._good, self._newer, self._is_confirmed = self._newer, self._good, False
        self._newer.take()

    def has_finite_loss(self) -> bool:
        """Whether the pair is finite at these weights and the last batch whose loss was; its draws leave no trace."""
        if self._finite is None or self._finite.batch is None:
            return True
        with same_random_state(self._vae.device):
            return self._is_finite_at(self._finite.batch)

    def blames_nan(self, batch: Batch) -> bool:
        """Whether an error of the pair at this batch comes from NaN, in the weights or at a site."""
        if not all_finite(self._looked_at):
            return True
        try:
            return _where(self._vae, batch, None) is not None
        except FAILURES:
            return False

    def _look_at_losses(self) -> None:
        if not self._unseen:
            return
        unseen = [loss for *_, loss in self._unseen]
        losses = torch.stack(unseen).tolist() if len(unseen) > 1 else [unseen[0].item()]
        for (step, epoch, minibatch, _), loss in zip(self._unseen, losses, strict=True):
            if not math.isfinite(loss):
                raise self.failure(
                    f"the loss of step {step + 1} (epoch {epoch + 1}) is not finite: ", minibatch
                )
            self._has_finite_loss(minibatch)
        self._unseen.clear()

    def _has_finite_loss(self, minibatch: Minibatch) -> None:
        self._finite, self._is_confirmed = minibatch, True

    def _is_finite_at(self, batch: Batch) -> bool:
        """Whether one of a few runs of the pair is finite; a rare draw may be none."""
        before = Snapshot(self._buffers)
        try:
            return any(_where(self._vae, batch, None) is None for _ in range(_TRIES))
        except FAILURES:
            return False
        finally:
            before.put_back()

    def failure(self, what: str, minibatch: Minibatch | None, why: str | None = None) -> NonFiniteLossError:
        """Go back to the last good weights, save them, and say what happened."""
        broken = self._broken() or self._grown()
        self._go_back()
        if why is None and minibatch is not None and minibatch.batch is not None:
            # At the weights gone back to: those stepped with NaN would make every site NaN.
            why = self._explained(minibatch.batch, minibatch.places) or broken or _RARE
        why = why or broken or "this process had no rows of the batch"
        kept = "The VAE holds the last good weights"
        if self._save_to is not None:
            try:
                self._vae.save(self._save_to)
                kept += f", saved to {self._save_to.name} (VAE.load reads it)"
            except OSError as error:
                kept += f", which could not be saved ({error})"
        return NonFiniteLossError(f"{what}{why}. {kept}. {_REMEDY}")

    def _go_back(self) -> None:
        """To the newest weights at which a loss is finite."""
        for snapshot in (None, self._newer, self._good):
            if snapshot is not None:
                snapshot.put_back()
            if all_finite(self._looked_at) and (snapshot is self._good or self.has_finite_loss()):
                return

    def _grown(self) -> str | None:
        """In words, that weights are finite and no loss is finite at them; None where one is."""
        if self.has_finite_loss():
            return None
        largest = max((float(t.detach().abs().max()) for t in self._looked_at if t.numel()), default=0.0)
        return f"no loss is finite at the weights that the last steps gave, the largest of which is {largest:.2g}"

    def _broken(self) -> str | None:
        """The weights that are not finite now, in words."""
        own = {id(t) for t in self._looked_at}
        kinds = {"parameters": self._vae.named_parameters(), "buffers": self._vae.named_buffers()}
        for kind, named in kinds.items():
            names = [name for name, t in named if id(t) in own and not all_finite([t])]
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                return (
                    f"the {kind} {', '.join(names[:3])}{more} are not finite themselves, since a gradient was not or "
                    "a step was too long"
                )
        return None

    def _explained(self, batch: Batch, places: Tensor | None) -> str | None:
        """Which site, and which rows of the batch, are not finite, from another run of the pair."""
        before = Snapshot(self._buffers)  # which the run would spoil again
        try:
            return _where(self._vae, batch, places)
        except FAILURES as error:
            return f"the pair fails when it runs once more ({type(error).__name__}: {error})"
        finally:
            before.put_back()


def _where(vae: VAE, batch: Batch, places: Tensor | None) -> str | None:
    """The first site that is not finite in a run of the pair, and its rows; None if all are."""
    run = SharedRun(vae) if vae.layout.shared else None
    with torch.no_grad(), vae.scope(), pyro.validation_enabled(False):
        sites = _sites(vae if run is None else run.pair, batch)
        shared = None if run is None else run.terms
    if shared is not None and not all_finite([*shared.values.values(), shared.rate]):
        return (
            f"the latents that all rows share, {', '.join(shared.values)}, or their densities are not finite"
        )
    for which, name, site in sites:
        bad = _bad_rows(site)
        if bool(bad.any()):
            return f"site '{name}' of the {which} is not finite for {_named(bad, places)}"
    return None


def _sites(pair: Pair, batch: Batch) -> list[tuple[str, str, Term]]:
    guide_sites, factors = run_guide_with_factors(pair, batch, 1)
    latents = {name: guide_sites[name].value for name in pair.layout.latents}
    model_sites = run_model(pair, batch, latents, 1)
    both = (("guide", {**guide_sites, **factors}), ("model", model_sites))
    return [(which, name, site) for which, sites in both for name, site in sites.items()]


def _bad_rows(site: Term) -> Tensor:
    bad = ~torch.isfinite(site.log_prob).all(0)
    if isinstance(site, ScoredSite) and not site.observed and site.value.is_floating_point():
        finite = torch.isfinite(site.value).movedim(site.row_dim, -1).reshape(-1, len(bad)).all(0)
        bad = bad | ~finite
    return bad


def _named(bad: Tensor, places: Tensor | None) -> str:
    index = bad.nonzero()[:, 0].cpu()
    shown = index if places is None else places[index]
    names = ", ".join(map(str, shown[:5].tolist()))
    whose = "of the batch" if places is None else "of the data"
    return f"row {names} {whose} ({len(index)} of the batch's {len(bad)} rows)"


class Snapshot:
    """Tensors, and what they held when it was last taken."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._values = [t.detach().clone() for t in tensors]

    @torch.no_grad()
    def take(self) -> None:
        """Remember what they hold now."""
        for value, tensor in zip(self._values, self._tensors, strict=True):
            value.copy_(tensor)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give them what they held."""
        for value, tensor in zip(self._values, self._tensors, strict=True):
            tensor.copy_(value)


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no entry is NaN or infinite; waits for a GPU once."""
    # One sum tells in a fraction of the time; only where it overflows are entries looked at.
    sums = [t.sum().isfinite() for t in tensors]
    return not sums or bool(torch.stack(sums).all()) or all(bool(t.isfinite().all()) for t in tensors)
