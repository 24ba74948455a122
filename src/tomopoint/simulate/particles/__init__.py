"""Particles to be found: the six of the competition, and the user's own."""
