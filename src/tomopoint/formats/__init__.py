"""Picks in the files of other programs: where their coordinates start, in what unit, and what stands for the score.

Every convention is stated in docs/formats.md, with its source, and held by round trips through the libraries that the
formats' own communities keep. Their libraries come with the extra ``lab`` and are imported inside functions.
"""
