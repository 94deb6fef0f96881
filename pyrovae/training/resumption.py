"""Whether a training can go on from a saved state, found out before anything of it is used."""

from __future__ import annotations

from collections.abc import Sequence

from pyrovae.random_state import is_noise_state
from pyrovae.schema import MalformedError
from pyrovae.training.callbacks import Callback
from pyrovae.training.modes import check_modes
from pyrovae.training.optimization import Optimization
from pyrovae.training.saved_training import SavedTraining, check_optimizer, check_weights
from pyrovae.training.totals import STATISTICS
from pyrovae.vae import VAE


def check_resumable(
    state: SavedTraining, vae: VAE, optimization: Optimization, callbacks: Sequence[Callback]
) -> None:
    """Raise MalformedError where some part of a training does not take its part of a saved state."""
    if differences := vae.differences(state["weights"]):
        raise MalformedError("weights", f"belong to another model: {differences}")
    check_weights(vae, state["weights"])
    check_modes(vae, state["frozen"], state["evaluating"])
    check_optimizer(vae, optimization.optimizer, state)
    optimization.check_state(state)
    if len(state["totals"][0]) != len(STATISTICS):
        raise MalformedError("totals", f"have {len(state['totals'][0])} sums: expected {len(STATISTICS)}")
    if len(state["callbacks"]) != len(callbacks):
        raise MalformedError("callbacks", f"are {len(state['callbacks'])}: expected {len(callbacks)}")
    for place, noise in enumerate(state["noises"]):
        if not is_noise_state(noise, vae.device):
            raise MalformedError(f"noises.{place}", "is no random state of this kind of device")


def give_back(state: SavedTraining, callbacks: Sequence[Callback]) -> None:
    """Give callbacks what they saved.

    Raises:
        MalformedError: one does not take it.

    """
    for place, (callback, saved) in enumerate(zip(callbacks, state["callbacks"], strict=True)):
        try:
            callback.load_state_dict(saved)
        except Exception as error:  # whatever a callback makes of a file
            said = f"is refused by {type(callback).__name__}: {type(error).__name__}: {error}"
            raise MalformedError(f"callbacks.{place}", said) from error
