"""Data looked at before a training, and labels after it."""
