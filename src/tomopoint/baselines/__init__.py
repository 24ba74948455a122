"""2-D baselines, things to beat: a detector and a segmenter of slices, whose findings are joined over z into points.

They train from the same project and the same folds as the 3-D road, and what they leave is read by the same thresholds,
scores and reports. They are never exported, and never on the kernel path.
"""
