"""The official metric, thresholds from out-of-fold picks, and the report."""
