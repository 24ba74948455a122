"""Stage what Kaggle needs: ``python build_dataset.py --model ensemble.onnx --out dist/kaggle-dataset``."""

from tomopoint.__main__ import run_script

if __name__ == "__main__":
    run_script("tomopoint.kaggle.command:build_dataset")
