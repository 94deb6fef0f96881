"""Whether a linear classifier reads labels off the posterior means.

scikit-learn does the work and is imported when first needed (`pip install "pyrovae[sklearn]"`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.exchange.features import features
from pyrovae.exchange.scikit_learn import Labels, labels_of_rows, need_sklearn
from pyrovae.shown import Shown
from pyrovae.vae import VAE

MAX_ITERATIONS = 2000


@dataclass(frozen=True, repr=False)
class Probe(Shown):
    """What `probe` gives: the accuracy of a linear classifier, its error, and that of always saying the same.

    `correct` [N] is 1 where a row was classified right by a classifier that had not seen it.
    `std_error` is the binomial one, sqrt(a (1 - a) / (N + 2)) at Laplace's a = (number right + 1) / (N + 2), and so
    never zero.
    """

    correct: Tensor
    majority: float
    how: str

    @property
    def accuracy(self) -> float:
        """The share of rows classified right."""
        return float(self.correct.mean())

    @property
    def std_error(self) -> float:
        """Of the accuracy, over rows."""
        N = len(self.correct)
        smoothed = (float(self.correct.sum()) + 1) / (N + 2)
        return math.sqrt(smoothed * (1 - smoothed) / (N + 2))

    def __str__(self) -> str:
        text = (
            f"a linear probe of E[z|x] is right in {self.accuracy:.1%} ± {self.std_error:.1%} of {len(self.correct)} "
            f"rows ({self.how}; always the most frequent class: {self.majority:.1%})"
        )
        if self.accuracy < self.majority + 2 * self.std_error:
            text += ". That is no better than chance: the latents may have collapsed, diagnose() tells."
        return text


def probe(
    vae: VAE,
    x: object,
    *context: object,
    labels: Labels,
    held_out: object = None,
    held_out_labels: Labels | None = None,
    num_folds: int = 5,
    penalty: float = 1.0,
    seed: int = 0,
) -> Probe:
    """How well a linear classifier reads labels off the posterior means.

    Multinomial logistic regression on standardized E[z|x], by stratified cross-validation, or fitted to these rows
    and judged on held-out ones. "Understanding Intermediate Layers Using Linear Classifier Probes" (Alain & Bengio,
    2016), https://arxiv.org/abs/1610.01644. The error takes rows as independent; folds share training rows, so
    that under cross-validation it is somewhat too small. Rows that the VAE was trained on flatter it.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        labels: [N], classes.
        held_out: data of the same kind, `x` or `(x, *context)`, to judge on; None cross-validates.
        held_out_labels: their classes.
        num_folds: of the cross-validation.
        penalty: strength of the L2 penalty on the coefficients, 1 / C.
        seed: of the folds.

    Raises:
        ValueError: labels of another number than rows, fewer than two classes, classes with fewer rows than
            folds, held-out rows without labels or the other way round.
        ModuleNotFoundError: without scikit-learn.

    Example:
        >>> import pyrovae as pv
        >>> x = torch.cat([torch.randn(20, 4), torch.randn(20, 4) + 9])
        >>> model = pv.models.LinearGaussian(2, 4).set_maximum_likelihood(x)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model))
        >>> pv.probe(vae, x, labels=[0] * 20 + [1] * 20).accuracy
        1.0

    """
    need_sklearn("probe()")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}: expected a positive number.")
    if (held_out is None) != (held_out_labels is None):
        raise ValueError("give held_out and held_out_labels together.")
    inputs = features(vae, x, *context).cpu().numpy()
    classes = labels_of_rows(labels, len(inputs), "labels")
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError("labels holds one class: a probe needs two at least.")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=MAX_ITERATIONS))
    if held_out is not None and held_out_labels is not None:
        others = features(vae, *(held_out if isinstance(held_out, tuple) else (held_out,))).cpu().numpy()
        truth = labels_of_rows(held_out_labels, len(others), "held_out_labels")
        predicted, how = classifier.fit(inputs, classes).predict(others), "held out"
    else:
        check_count("num_folds", num_folds)
        if not 2 <= num_folds <= counts.min():
            raise ValueError(
                f"num_folds is {num_folds}: expected between 2 and {counts.min()}, the rows of the rarest class."
            )
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
        truth, how = classes, f"{num_folds}-fold cross-validation"
        predicted = cross_val_predict(classifier, inputs, classes, cv=folds)
    values, counts = np.unique(classes, return_counts=True)
    majority = float((truth == values[counts.argmax()]).mean())
    return Probe(torch.as_tensor(predicted == truth, dtype=torch.float64), majority, how)
