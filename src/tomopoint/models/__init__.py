"""Trained networks that come with the package, each a graph with its model card and how it was made."""
