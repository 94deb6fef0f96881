"""The conditional model p(x|z,y): digits asked for by label are recognized as that label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import pyrovae as pv
from pyrovae import models
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.nn import MLP

K = 8
EACH = 100  # drawn digits a label


@pytest.fixture(scope="module")
def digits():
    """Binary rows, their labels one-hot, and a classifier trained on them."""
    data = load_digits()
    x = (data.data > 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    train, held_out = order[:1400], order[1400:]
    score = SVC().fit(x[train], data.target[train]).score(x[held_out], data.target[held_out])
    labels = torch.nn.functional.one_hot(torch.tensor(data.target), 10).float()
    return torch.tensor(x), labels, SVC().fit(x, data.target), score


@pytest.mark.parametrize("prior", ["p(z)", "p(z|y)"])
def test_generated_digits_are_recognized_as_their_label(digits, prior):
    x, labels, classifier, held_out = digits
    torch.manual_seed(0)
    part = models.StandardNormal(K) if prior == "p(z)" else models.Normal(MLP(10, (K, K)))
    model = models.LatentVariableModel(part, models.Bernoulli(MLP(K + 10, 64, [256])))
    guide = AmortizedGuide(DiagonalNormal(MLP(64 + 10, (K, K), [256])))
    vae = pv.VAE(model, guide)
    pv.fit(
        vae,
        (x, labels),
        epochs=40,
        batch_size=64,
        seed=0,
        progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=2e-3),
    )
    asked = torch.arange(10).repeat_interleave(EACH)
    torch.manual_seed(0)
    drawn = vae.generate(len(asked), torch.eye(10)[asked])
    recognized = (torch.tensor(classifier.predict(drawn.numpy())) == asked).float()
    by_label = recognized.reshape(10, EACH).mean(1)
    print(
        f"\n{prior}: {recognized.mean():.1%} of {len(asked)} drawn digits recognized, the worst label "
        f"{by_label.min():.0%}; real held-out digits {held_out:.1%}"
    )
    assert float(recognized.mean()) >= 0.9
