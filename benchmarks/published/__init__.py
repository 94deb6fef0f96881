"""Figures of the literature, made again: `python -m benchmarks.published` (`make published`) runs all entries.

Each entry is a module of its own: the paper's recipe, the model declared, the published figure with its source. What it
finds lies in benchmarks/results/published/, from which docs/published.md is written.
"""
