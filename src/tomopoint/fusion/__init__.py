"""Picks of several sources, ours and others', as one table."""
