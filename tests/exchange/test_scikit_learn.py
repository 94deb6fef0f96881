"""Without scikit-learn."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "use, message",
    [
        ("import pyrovae.estimator", "pyrovae.estimator needs scikit-learn 1.6 or newer"),
        (
            "import torch, pyrovae as pv\n"
            "m = pv.models.LinearGaussian(2, 4)\n"
            "pv.cluster(pv.VAE(m, pv.guides.ExactGuide(m)), torch.randn(9, 4), num_clusters=2)",
            "cluster() needs scikit-learn",
        ),
    ],
)
def test_without_scikit_learn_it_says_so(use, message):
    code = f"import sys\nsys.modules['sklearn'] = None\n{use}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ModuleNotFoundError: {message}" in result.stderr
    assert "pyrovae[sklearn]" in result.stderr
