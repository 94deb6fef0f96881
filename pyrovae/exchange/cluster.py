"""Clusters of rows by their posterior means, and whether they are known classes.

scikit-learn does the work and is imported when first needed (`pip install "pyrovae[sklearn]"`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.exchange.features import features
from pyrovae.exchange.scikit_learn import Labels, labels_of_rows, need_sklearn
from pyrovae.shown import Shown
from pyrovae.vae import VAE


@dataclass(frozen=True, repr=False)
class Clustering(Shown):
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
    vae: VAE, x: object, *context: object, num_clusters: int, truth: Labels | None = None, seed: int = 0
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
    need_sklearn("cluster()")
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
    known = None if truth is None else labels_of_rows(truth, len(inputs), "truth")
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
