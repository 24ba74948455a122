"""Short for ``tomopoint export``: ``python export_onnx.py trained/demo -o ensemble.onnx``."""

import sys

from tomopoint.__main__ import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
