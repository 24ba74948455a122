"""Everything that touches Kaggle: the dataset to upload, the two notebooks and their metadata, and what they call."""
