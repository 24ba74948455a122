"""What a batch is made of: training tomograms in memory, and the crops that are cut from them and varied."""
