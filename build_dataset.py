"""Short for ``tomopoint stage``: ``python build_dataset.py --model ensemble.onnx --out dist/kaggle-dataset``."""

import sys

from tomopoint.__main__ import main

if __name__ == "__main__":
    main(["stage", *sys.argv[1:]])
