"""The simulator: tomograms of known content in the format of the competition."""
