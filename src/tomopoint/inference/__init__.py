"""From tomograms to picks: tiling, decoding, workers, engines. Runs on Kaggle: imports no torch, monai or lightning."""
