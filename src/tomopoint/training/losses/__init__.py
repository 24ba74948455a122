"""What a batch is asked: which cells answer for which particle, and what a wrong answer costs."""
