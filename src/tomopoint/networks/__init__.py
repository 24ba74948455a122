"""Networks: backbones, heads, and the average of several, behind one contract (`point_network.py`)."""
