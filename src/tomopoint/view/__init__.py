"""Looking at tomograms and their picks, in napari or in ChimeraX, and correcting picks to train on.

What is shown (`scene.py`, `pyramid.py`) and what is saved (`saving.py`) does without napari, which comes with the extra
``view`` and is imported in `window.py` alone.
"""
