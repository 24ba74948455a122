"""Plain PyTorch: the engine of validation, and the reference for all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tomopoint.errors import EngineError
from tomopoint.inference.engines.engine import Array
from tomopoint.processes import keep_freed_memory


class TorchEngine:
    """A module of the contract, in float32, on one device.

    Parameters
    ----------
    module
        ``(B, 1, D, H, W) -> scores, offsets``; put into eval mode.
    window_zyx
        Input size, voxels; a multiple of what the module takes.
    batch
        Most windows at once.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...
    """

    def __init__(
        self, module: torch.nn.Module, window_zyx: tuple[int, int, int], batch: int = 1, device: str = "cpu"
    ) -> None:
        self.window_zyx = window_zyx
        self.batch = batch
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError(f"device {device!r} is not there; use 'cpu' or a machine with an NVIDIA GPU")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.module = module.to(self.device).float().eval()

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the module, see :class:`~tomopoint.inference.engines.engine.Engine`."""
        with torch.inference_mode():
            scores, offsets = self.module(torch.from_numpy(np.ascontiguousarray(windows)).to(self.device))
        return scores.float().cpu().numpy(), offsets.float().cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """Return runtime, version and device."""
        return {"runtime": "torch", "version": str(torch.__version__), "device": str(self.device)}

    def close(self) -> None:
        """Let go of the module, and with it its memory."""
        self.module = torch.nn.Identity()
