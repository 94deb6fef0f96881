"""To and from other packages: ArviZ, scikit-learn."""
