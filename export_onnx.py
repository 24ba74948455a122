"""Merge trained folds into one averaged ONNX graph: ``python export_onnx.py runs/demo -o ensemble.onnx``."""

import sys
from itertools import takewhile

from tomopoint.__main__ import run_script

if __name__ == "__main__":
    words = ["--out" if word == "-o" else word for word in sys.argv[1:]]
    # What these would change was validated: they are options of the command that does that.
    runs = " ".join(takewhile(lambda word: not word.startswith("-"), words)) or "RUN"
    moved = dict.fromkeys(("window", "overlap", "views", "weights", "offset-average"), f"tomopoint validate {runs}")
    run_script("tomopoint.export.command:export_onnx", words, positional=("runs",), moved=moved)
