"""scikit-learn's digits: rows that every installation has."""

import torch
from sklearn.datasets import load_digits


def digits():
    """Grey levels from 0 to 1, [1797, 64], and which digit each row is."""
    data = load_digits()
    return torch.as_tensor(data.data / 16).float(), data.target
