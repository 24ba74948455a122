"""The parts of a recipe, as dataclasses: every option of a training, with its default and its limits."""
