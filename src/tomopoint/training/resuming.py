"""The checkpoint of an interrupted member: written whole, and read without running anything that is in it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tomopoint.errors import TomopointError
from tomopoint.files import check_output, put_in_place
from tomopoint.training.optimisation import Clock

_PARTS = {"epoch", "global_step", "state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "seconds"}


class LastCheckpoint(TorchCheckpointIO):
    """How Lightning writes and reads ``last.ckpt``.

    A run folder may come from someone else, and unpickling runs code. What training saves is therefore tensors,
    numbers, texts, lists and dictionaries, and nothing else is read.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write everything under a temporary name first: a kill while saving costs one epoch, not the member."""
        target = Path(path)
        check_output(target)
        temporary = target.with_name(f".{target.name}.partial")  # one name: what a kill leaves is written over
        torch.save(checkpoint, temporary)
        put_in_place(temporary, target)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU.

        Raises
        ------
        TomopointError
            It is damaged, no checkpoint of this package, or holds an object that is not plain data.
        """
        fix = "delete it to train this member from the start"
        try:
            # The only object in checkpoints of 0.1.0: the clock of the schedule, a dataclass of two numbers.
            with torch.serialization.safe_globals([Clock]):
                content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise TomopointError(f"{path} holds more than tensors and numbers, or is no checkpoint; {fix}") from error
        except (RuntimeError, EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise TomopointError(f"{path} is damaged ({type(error).__name__}); {fix}") from error
        if not isinstance(content, Mapping) or not set(content) >= _PARTS:
            raise TomopointError(f"{path} is no checkpoint of an interrupted member; {fix}")
        return dict(content)
