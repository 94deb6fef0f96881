"""Pictures of a fit, by matplotlib. Each function draws on the axes that it is given and returns them.

Nothing here touches pyplot: figures belong to whoever makes them, and the user's backend stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.vae import VAE

# Paul Tol's "muted" colours, told apart with any colour vision, https://personal.sron.nl/~pault/; classes are
# marked by their glyph as well.
COLOURS = (
    "#332288", "#CC6677", "#117733", "#882255", "#44AA99", "#AA4499", "#999933", "#88CCEE", "#661100", "#777777",
)  # fmt: skip


def training_curve(ax: Axes, history: pd.DataFrame) -> Axes:
    """ELBO by epoch, in nats per row: training rows (while trained on) and validation rows, if logged."""
    ax.plot(history["epoch"], history["elbo"], color=COLOURS[0], label="training")
    if history["elbo_valid"].notna().any():
        ax.plot(history["epoch"], history["elbo_valid"], color=COLOURS[1], linestyle="--", label="validation")
    ax.set(xlabel="epoch", ylabel="ELBO, nats per row", title="Training")
    # The first epochs fall far below the rest and would flatten the curve.
    settled = history["elbo"].iloc[len(history) // 20 :]
    ax.set_ylim(bottom=float(settled.min()))
    ax.legend(frameon=False, loc="lower right")
    return ax


def image_grid(ax: Axes, rows: Sequence[Tensor], image_shape: tuple[int, int], title: str) -> Axes:
    """Rows of images, each [N, *event] with values in [0, 1], one under another."""
    height, width = image_shape
    strips = []
    for images in rows:
        padded = np.pad(images.detach().cpu().numpy().reshape(-1, height, width), ((0, 0), (1, 1), (1, 1)))
        strips.append(np.concatenate(list(padded), axis=1))
    ax.imshow(np.concatenate(strips), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    return ax


def latent_map(ax: Axes, means: Tensor, labels: Any = None) -> Axes:
    """Posterior means [N, K], on their first two principal components where K > 2; one glyph a class."""
    points = means.detach().cpu().double().numpy()
    axis_names = ["z[0]", "z[1]"]
    if points.shape[1] > 2:
        centred = points - points.mean(0)
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        share = singular**2 / (singular**2).sum()
        points = centred @ directions[:2].T
        axis_names = [f"principal component {i + 1} of E[z|x] ({share[i]:.0%})" for i in range(2)]
    if points.shape[1] == 1:
        points = np.column_stack([points, np.zeros(len(points))])
    classes = [None] if labels is None else list(np.unique(labels))
    for place, label in enumerate(classes):
        chosen = points if label is None else points[np.asarray(labels) == label]
        marker = "o" if label is None else f"${label}$"
        ax.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=26,
            marker=marker,
            color=COLOURS[place % len(COLOURS)],
            linewidths=0.3,
        )
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], title="Latent map")
    return ax


def report(
    vae: VAE, x: Tensor, *, history: pd.DataFrame, image_shape: tuple[int, int], labels: Any = None
) -> Figure:
    """One page for a VAE of images: training curve, reconstructions, samples and latent map.

    Args:
        vae: of one latent and one observed site.
        x: held-out rows [N, *event], values in [0, 1].
        history: what `fit` returned.
        image_shape: height and width of a row.
        labels: classes of the rows, [N].

    """
    from matplotlib.figure import Figure

    shown = x[:12]
    reconstructed, means = vae.reconstruct(shown), vae.encode(x)
    if not (isinstance(reconstructed, Tensor) and isinstance(means, Tensor)):
        raise ValueError(
            "report() draws VAEs of one latent and one observed site; draw the parts one by one."
        )
    latents, draws = vae.sample_prior(24)
    drawn = next(iter(draws.values()))
    expected = vae.decode(latents)
    assert isinstance(expected, Tensor)

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    training_curve(axes[0, 0], history)
    title = "Originals over reconstructions E[x|z = E[z|x]]"
    image_grid(axes[0, 1], [shown[:6], reconstructed[:6], shown[6:], reconstructed[6:]], image_shape, title)
    title = "Prior: means E[x|z] over draws x ~ p(x|z)"
    strips = [s[:6] for s in (expected, drawn)] + [s[6:12] for s in (expected, drawn)]
    image_grid(axes[1, 0], strips, image_shape, title)
    latent_map(axes[1, 1], means, labels)
    return figure
