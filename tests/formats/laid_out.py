"""The tomograms of these tests: voxel size and shapes."""

VOXEL_A = 10.012444
SHAPES_ZYX = {"TS_1": (20, 41, 60), "TS_2": (16, 30, 30)}
"""One axis odd: a centre rounded to a whole voxel would show."""
