"""Everything that touches Kaggle: the dataset to upload, the two notebooks with their metadata, and what they call."""
