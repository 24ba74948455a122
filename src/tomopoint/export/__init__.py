"""Trained networks as one averaged ONNX graph, proven to compute what PyTorch computes; engines from it; its cost."""
