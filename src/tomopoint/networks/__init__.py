"""Networks: backbones, heads, and the average of several, behind one contract (`contract.py`)."""
