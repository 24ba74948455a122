"""Trained networks as one averaged ONNX graph, and the proof that it computes what PyTorch computed."""
