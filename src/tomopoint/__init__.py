"""tomopoint: an offline submission kit for point detection in cryo-electron tomograms."""

__version__ = "0.1.0"
