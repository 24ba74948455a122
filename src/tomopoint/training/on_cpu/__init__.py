"""Training on a CPU: norms that suit its convolutions, and the choice of how to compute by timing."""
