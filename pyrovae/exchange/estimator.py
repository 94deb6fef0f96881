"""A VAE as a scikit-learn estimator: posterior means as features in a Pipeline.

The only module that needs scikit-learn to be imported: `from pyrovae.estimator import VAEEstimator`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyro
import torch

from pyrovae.checks import check_count
from pyrovae.evidence.marginal import log_marginal
from pyrovae.exchange.features import feature_names, features
from pyrovae.random_state import fixed_seed
from pyrovae.training.fitting import fit
from pyrovae.training.optimizers import OptimizerFactory
from pyrovae.vae import VAE

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as problem:
    raise ModuleNotFoundError(
        'pyrovae.estimator needs scikit-learn 1.6 or newer: pip install "pyrovae[sklearn]".', name="sklearn"
    ) from problem

if TYPE_CHECKING:
    from sklearn.utils import Tags


class VAEEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A VAE of rows X [N, D], with scikit-learn's fit, transform, score_samples and sample.

    `fit` makes a VAE and trains it by `pyrovae.fit`; `transform` gives posterior means E[z|x], `score_samples`
    log p(x) by importance sampling, in nats, `sample` rows from the model. Pairs that take context besides X are not
    for this: scikit-learn has no place for it.

    Args:
        make_vae: from the number of features D to an untrained VAE whose pair takes x [B, D]. To pickle the estimator,
            and for `n_jobs`, it has to be a function of a module, and the VAE's parts picklable.
        epochs, batch_size, objective, optimizer, device, progress: as `pyrovae.fit`; an optimizer is a function of
            parameters.
        num_samples: weights for each row of `score_samples`.
        random_state: of the VAE's start, of training, `score_samples` and `sample`: a whole number gives the same
            figures at each call, None others.

    Attributes:
        vae_: the trained VAE, for the rest of pyrovae.
        history_: what `pyrovae.fit` returned.
        n_features_in_, feature_names_in_: as elsewhere in scikit-learn.

    Raises:
        ValueError, TypeError: from `fit` on: a `make_vae` that gives no VAE, an optimizer that is not a function, X
            that scikit-learn or the pair refuses.

    Example:
        >>> import pyrovae as pv
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> def make_vae(num_features):
        ...     return pv.VAE(pv.models.LinearGaussian(2, num_features))
        >>> X, y = torch.randn(40, 5).numpy(), [0, 1] * 20
        >>> pipeline = make_pipeline(VAEEstimator(make_vae, epochs=2, random_state=0), LogisticRegression())
        >>> pipeline.fit(X, y)[0].transform(X).shape
        (40, 2)

    """

    def __init__(
        self,
        make_vae: Callable[[int], VAE],
        *,
        epochs: int = 100,
        batch_size: int = 128,
        objective: pyro.infer.ELBO | None = None,
        optimizer: OptimizerFactory | None = None,
        num_samples: int = 100,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> None:
        self.make_vae = make_vae
        self.epochs = epochs
        self.batch_size = batch_size
        self.objective = objective
        self.optimizer = optimizer
        self.num_samples = num_samples
        self.random_state = random_state
        self.device = device
        self.progress = progress

    vae_: VAE
    history_: pd.DataFrame

    def fit(self, X: npt.ArrayLike, y: object = None) -> VAEEstimator:
        """Make a VAE and train it on rows X [N, D]; `y` is not used."""
        X = self._checked(X, reset=True)
        check_count("num_samples", self.num_samples)
        if isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "optimizer is a torch optimizer: its parameters are not those of the VAE that fit() makes. Give a "
                "function of parameters, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)."
            )
        seed = self._seed()
        with fixed_seed(seed, torch.device("cpu")):
            vae = self.make_vae(X.shape[1])
            if not isinstance(vae, VAE):
                raise TypeError(f"make_vae gave {type(vae).__name__}: expected a pyrovae.VAE.")
            history = fit(
                vae,
                X,
                epochs=self.epochs,
                batch_size=self.batch_size,
                objective=self.objective,
                optimizer=self.optimizer,
                seed=seed,
                device=self.device,
                progress=self.progress,
            )
        self.vae_, self.history_ = vae, history
        return self

    def transform(self, X: npt.ArrayLike) -> np.ndarray:
        """Posterior means E[z|x] of all latent sites side by side, [N, K].

        Exact where the guide's family has a mean in closed form.
        """
        check_is_fitted(self, "vae_")
        X = self._checked(X)
        with fixed_seed(self._seed(), self.vae_.device):
            return features(self.vae_, X).cpu().numpy()

    def score_samples(self, X: npt.ArrayLike) -> np.ndarray:
        """log p(x) of each row by importance sampling, in nats, [N].

        A Monte Carlo estimate from `num_samples` draws that errs low: see `pyrovae.log_marginal`, which says by how
        much. With a whole number as `random_state` a row's figure does not depend on the rows beside it.
        """
        check_is_fitted(self, "vae_")
        X = self._checked(X)
        return log_marginal(
            self.vae_, X, num_samples=self.num_samples, seed=self._seed()
        ).log_marginal.numpy()

    def score(self, X: npt.ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`, in nats per row; `y` is not used."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Rows drawn from the model, [n_samples, D]."""
        check_is_fitted(self, "vae_")
        rows = self.vae_.generate(n_samples, seed=self._seed())
        if not isinstance(rows, torch.Tensor):
            raise ValueError(f"the model observes {list(rows)}: draw its sites with vae_.generate().")
        return rows.cpu().numpy()

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """The names of the columns of `transform`: site and place, as z[0], z[1]; of a single number the site."""
        check_is_fitted(self, "vae_")
        return np.asarray(feature_names(self.vae_), dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # networks compute in torch's default dtype, whatever X has
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "vae_")

    def _checked(self, X: npt.ArrayLike, *, reset: bool = False) -> np.ndarray:
        dtype = torch.empty(0).numpy().dtype  # torch's default
        return validate_data(self, X, reset=reset, dtype=dtype, copy=True)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))
