"""The machine that trains: device, precision, processes and log. Nothing here decides what is learned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from tomopoint.errors import TomopointError
from tomopoint.processes import keep_freed_memory
from tomopoint.training.on_cpu.choice import Stated
from tomopoint.training.options.fitting import Precision

Device = Literal["auto", "cpu", "cuda"]
Curves = Literal["tensorboard", "wandb", "none"]
LightningPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]

MAX_LOADER_PROCESSES = 8

LIGHTNING: Mapping[Stated, LightningPrecision] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Its names of precisions."""


@dataclass(frozen=True)
class Processes:
    """Processes that train one member together, as ``torchrun`` started them.

    Attributes
    ----------
    rank
        This one.
    count, per_node
        In all, and on this machine.
    """

    rank: int = 0
    count: int = 1
    per_node: int = 1

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.count // self.per_node

    @classmethod
    def from_environment(cls) -> Processes:
        """Read torchrun's variables; one process without them."""
        value = os.environ.get
        count = int(value("WORLD_SIZE", "1"))
        return cls(int(value("RANK", "0")), count, int(value("LOCAL_WORLD_SIZE", str(count))))


@dataclass(frozen=True)
class Machine:
    """Options of the machine.

    Attributes
    ----------
    device
        ``auto``: a GPU if there is one.
    workers
        Processes that cut crops; None: none on a CPU (its cores train), up to eight on a GPU.
    curves
        Where curves go besides metrics.csv.

    Raises
    ------
    TomopointError
        A GPU is wanted and there is none, or a negative number of processes.
    """

    device: Device = "auto"
    workers: int | None = None
    curves: Curves = "tensorboard"

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TomopointError("--device cuda: torch finds no GPU; use --device cpu, or install torch for CUDA")
        if self.workers is not None and self.workers < 0:
            raise TomopointError(f"--workers must not be negative, got {self.workers}; 0 cuts crops in this process")

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU trains."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    @property
    def device_name(self) -> str:
        """For the record."""
        return torch.cuda.get_device_name() if self.on_gpu else "cpu"

    @property
    def loader_processes(self) -> int:
        """Processes that cut crops."""
        if self.workers is not None:
            return self.workers
        return min(MAX_LOADER_PROCESSES, max(1, (os.cpu_count() or 2) - 1)) if self.on_gpu else 0

    def precisions(self, wanted: Precision) -> tuple[Stated, ...]:
        """Return the precisions that `wanted` leaves to choose from; TomopointError for fp16 on a CPU."""
        if wanted == "fp16" and not self.on_gpu:
            raise TomopointError("precision fp16 needs a GPU; use bf16, fp32 or auto")
        if wanted != "auto":
            return (wanted,)
        if self.on_gpu:
            return ("bf16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
        return ("bf16", "fp32")

    def build_fabric(self, precision: Stated) -> Fabric:
        """Return what places a network on the device, computes in the precision and adds up gradients.

        In a process that torchrun started it also joins the others.
        """
        if self.on_gpu:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        else:
            keep_freed_memory()
        processes = Processes.from_environment()
        # A process alone has nobody to find, whatever batch system it runs in: a worker of a cluster is a job of its
        # own. Of a job with several tasks Fabric knows whether they fit.
        is_alone = processes.count == 1 and os.environ.get("SLURM_NTASKS", "1") == "1"
        fabric = Fabric(
            accelerator="gpu" if self.on_gpu else "cpu",
            devices=processes.per_node,
            num_nodes=processes.nodes,
            strategy="ddp" if processes.count > 1 else "auto",
            precision=LIGHTNING[precision],
            plugins=[LightningEnvironment()] if is_alone else [],
        )
        fabric.launch()
        return fabric

    def build_logger(self, folder: Path, label: str) -> Any:
        """Return where the curves of a member go, with Lightning's ``log_metrics(figures, step)``; None for nowhere."""
        if self.curves == "none":
            return None
        if self.curves == "wandb":
            return _wandb(folder, label)
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(root_dir=folder, name="tensorboard", version="")


def _wandb(folder: Path, label: str) -> Any:
    try:
        import wandb  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise TomopointError(
            "--curves wandb needs the package wandb: pip install wandb, or use --curves tensorboard"
        ) from error
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="tomopoint", name=f"{folder.parents[1].name}/{label}", save_dir=str(folder))
