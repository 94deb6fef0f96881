"""Side-by-side measurements: `python -m benchmarks.NAME` writes one table into benchmarks/results/.

Data are read from the folder that the environment variable PYROVAE_DATA names.
"""
