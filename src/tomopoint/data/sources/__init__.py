"""Where tomograms come from: one word on the command line, ``--data``, for every layout that is read."""
