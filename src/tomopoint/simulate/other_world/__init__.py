"""A second, independent way to make tomograms: what a picker meets when it leaves the simulator it was trained in.

For evaluation only. Nothing here is trained on by any recipe or default; it shares no code with the imaging of the
simulator's own world (:mod:`tomopoint.simulate.filters`, :mod:`tomopoint.simulate.imaging`) and none of its unlabelled
matter. See docs/simulator.md, "The other world".
"""
