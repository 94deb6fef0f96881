"""Stochastic variational inference: `fit`, its loop, its batches, its files and its processes."""
