"""Validation: the average that will be deployed, calibrated on runs its networks never saw."""
