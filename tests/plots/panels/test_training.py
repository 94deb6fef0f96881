"""Training: what is said of a history."""

import numpy as np

from pyrovae.plots.panels.training import of_history
from tests.plots.examples import history


def test_a_late_best_epoch_is_not_called_a_rise():
    assert "best in the last tenth of the epochs" in of_history(history()).sentence
    falling = history()
    falling["elbo_valid"] = -np.arange(40.0)
    assert "it was best at epoch 1, and has lost 38.50" in of_history(falling).sentence
