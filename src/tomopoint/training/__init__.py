"""Training: from a recipe and a project to one network per fold and architecture, on disk."""
