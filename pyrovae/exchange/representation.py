"""What a VAE's latents are good for: posterior means as features, judged by probes and clusters.

scikit-learn does the work and is imported when first needed (`pip install "pyrovae[sklearn]"`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.vae import VAE

MAX_ITERATIONS = 2000


def features(vae: VAE, x: Any, *context: Any) -> Tensor:
    """Posterior means E[z|x] of all latent sites of the guide side by side, [N, K].

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.

    Raises:
        ValueError: as `VAE.encode`, such as where all latents are discrete and summed out: labels have no mean.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> pv.features(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4)).shape
        torch.Size([9, 2])

    """
    means = vae.encode(x, *context)
    sites = [means] if isinstance(means, Tensor) else list(means.values())
    return torch.cat([site.reshape(len(site), -1) for site in sites], 1)


def feature_names(vae: VAE) -> list[str]:
    """The names of the columns of `features`: site and place, as z[0], z[1]; of a single number the site."""
    return [name for site in vae.layout.latents for name in site_names(vae, site)]


def site_names(vae: VAE, site: str) -> list[str]:
    """The names of one latent site's numbers."""
    layout = vae.layout.latents[site]
    if not (*layout.inner_sizes, *layout.event_shape):
        return [site]
    return [f"{site}[{k}]" for k in range(layout.numel)]


@dataclass(frozen=True)
class Probe:
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
    x: Any,
    *context: Any,
    labels: Any,
    held_out: Any = None,
    held_out_labels: Any = None,
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
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model))
        >>> result = pv.probe(vae, torch.cat([torch.randn(20, 4), torch.randn(20, 4) + 9]), labels=[0] * 20 + [1] * 20)
        >>> result.accuracy
        1.0

    """
    _needs_sklearn("probe()")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}: expected a positive number.")
    if (held_out is None) != (held_out_labels is None):
        raise ValueError("give held_out and held_out_labels together.")
    inputs = features(vae, x, *context).cpu().numpy()
    classes = _labels(labels, len(inputs), "labels")
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError("labels holds one class: a probe needs two at least.")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=MAX_ITERATIONS))
    if held_out is not None:
        others = features(vae, *(held_out if isinstance(held_out, tuple) else (held_out,))).cpu().numpy()
        truth = _labels(held_out_labels, len(others), "held_out_labels")
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


@dataclass(frozen=True)
class Clustering:
    """What `cluster` gives: each row's cluster [N], the centres [num_clusters, K], and how well they fit.

    `silhouette` is the mean silhouette, from -1 to 1; `adjusted_rand` and `normalized_mutual_information` compare with
    the truth (1 the same, about 0 unrelated) and are None without one.
    """

    labels: Tensor
    centres: Tensor
    silhouette: float
    adjusted_rand: float | None
    normalized_mutual_information: float | None

    def __str__(self) -> str:
        said = f"{len(self.centres)} clusters of E[z|x] over {len(self.labels)} rows: silhouette {self.silhouette:.2f}"
        if self.adjusted_rand is not None:
            said += f", adjusted Rand index {self.adjusted_rand:.2f}, NMI {self.normalized_mutual_information:.2f}"
        return said


def cluster(
    vae: VAE, x: Any, *context: Any, num_clusters: int, truth: Any = None, seed: int = 0
) -> Clustering:
    """Cluster rows by their posterior means with k-means, and compare with known classes.

    "Comparing Partitions" (Hubert & Arabie, 1985) is the source of the adjusted Rand index.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        num_clusters: how many, at least 2 and below N.
        truth: [N], classes to compare with.
        seed: of the starts, of which the best of ten is taken.

    Raises:
        ValueError: `num_clusters` out of range, or more than there are different posterior means (one where the
            latents have collapsed); truth of another number than rows.
        ModuleNotFoundError: without scikit-learn.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> vae = pv.VAE(model, pv.guides.ExactGuide(model))
        >>> x = torch.cat([torch.randn(20, 4), torch.randn(20, 4) + 9])
        >>> pv.cluster(vae, x, num_clusters=2, truth=[0] * 20 + [1] * 20).adjusted_rand
        1.0

    """
    _needs_sklearn("cluster()")
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    check_count("num_clusters", num_clusters)
    inputs = features(vae, x, *context).cpu().double().numpy()
    if not 2 <= num_clusters < len(inputs):
        raise ValueError(f"num_clusters is {num_clusters}: expected between 2 and {len(inputs) - 1}.")
    different = _count_different(inputs)
    if different < num_clusters:
        raise ValueError(
            f"num_clusters is {num_clusters}, and the {len(inputs)} rows have {different} different posterior means: "
            "nothing to cluster by. The latents may have collapsed, diagnose() tells."
        )
    known = None if truth is None else _labels(truth, len(inputs), "truth")
    fitted = KMeans(num_clusters, n_init=10, random_state=seed).fit(inputs)
    found = fitted.labels_
    return Clustering(
        labels=torch.as_tensor(found, dtype=torch.int64),
        centres=torch.as_tensor(fitted.cluster_centers_),
        silhouette=float(silhouette_score(inputs, found)),
        adjusted_rand=None if known is None else float(adjusted_rand_score(known, found)),
        normalized_mutual_information=(
            None if known is None else float(normalized_mutual_info_score(known, found))
        ),
    )


def _count_different(points: np.ndarray) -> int:
    """How many of some points [N, K] differ by more than rounding at float32."""
    unit = 1e-5 * np.abs(points).max()
    return 1 if unit == 0 else len(np.unique(np.round(points / unit), axis=0))


def _labels(labels: Any, num_rows: int, name: str) -> np.ndarray:
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (num_rows,):
        raise ValueError(f"{name} has shape {list(array.shape)}: expected [{num_rows}], one for each row.")
    return array


def _needs_sklearn(what: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{what} needs scikit-learn: pip install "pyrovae[sklearn]".', name="sklearn"
        ) from error
