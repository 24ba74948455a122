"""Recipes: everything that decides what a training learns, as dataclasses.

A few lines of YAML fill them, see :mod:`tomopoint.training.recipe_files`; nothing here needs torch. A field that a
recipe does not name takes the default written here. What belongs to the machine and not to the result (device, loader
processes, curves) is an option of the command instead.

Finished members stay valid when options are added: a new field is marked with
:data:`~tomopoint.strict_json.ADDED`, its default is what
earlier versions did, and a recipe is stored, compared and hashed without it unless it is used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError
from tomopoint.files import write_atomically
from tomopoint.networks.config import NetworkConfig, check_size
from tomopoint.pipeline import COMPETITION_PARTICLES, Normalisation, Particle
from tomopoint.strict_json import ADDED, plain
from tomopoint.training.options.checks import require
from tomopoint.training.options.crops import AugmentationOptions, CropOptions
from tomopoint.training.options.fitting import FitOptions, OptimiserOptions
from tomopoint.training.options.losses import LossOptions


@dataclass(frozen=True)
class NetworkRecipe(NetworkConfig):
    """A network of a recipe, with its own options where they are not the recipe's.

    In a file a network names only what differs: ``{name: dynunet, fit: {batch_size: 6}}`` takes the rest of `fit` from
    the recipe (:mod:`tomopoint.training.recipe_files` fills it in). Here each is None or complete.

    Attributes
    ----------
    augmentation, loss, optimiser, fit
        Instead of the recipe's. `learning_rate` is short for that option of `optimiser`, and goes before it.
    """

    augmentation: AugmentationOptions | None = field(default=None, metadata=ADDED)
    loss: LossOptions | None = field(default=None, metadata=ADDED)
    optimiser: OptimiserOptions | None = field(default=None, metadata=ADDED)
    fit: FitOptions | None = field(default=None, metadata=ADDED)

    @property
    def architecture(self) -> NetworkConfig:
        """The network without the options of its training."""
        return NetworkConfig(**{f.name: getattr(self, f.name) for f in fields(NetworkConfig)})


OWN_OPTIONS = ("augmentation", "loss", "optimiser", "fit")
"""Parts of a recipe that a network may have of its own. The others decide which data are read, what is detected and how
runs are split: these are one for all networks, or their maps could not be averaged."""


@dataclass(frozen=True)
class Recipe:
    """What `tomopoint train` does: every network on every fold.

    Attributes
    ----------
    networks
        Architectures with their sizes, and options of their own.
    folds
        A scheme of :func:`tomopoint.data.folds.make_folds`, or the validation runs of each fold.
    particles
        What to detect, in channel order.
    normalisation
        From raw values to network input.
    seed
        Of initial weights, crops and dropout; each fold and network derives its own.
    stride
        Voxels per cell of the maps that the networks predict, along every axis; a power of two.
    """

    networks: tuple[NetworkRecipe, ...] = (NetworkRecipe("segresnet", learning_rate=1e-4), NetworkRecipe("dynunet"))
    folds: str | tuple[tuple[str, ...], ...] = "pairs-5"
    particles: tuple[Particle, ...] = COMPETITION_PARTICLES
    normalisation: Normalisation = field(default_factory=Normalisation)
    crops: CropOptions = field(default_factory=CropOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    seed: int = 0
    stride: int = field(default=2, metadata=ADDED)

    def __post_init__(self) -> None:
        require(len(self.networks) > 0, "a recipe needs at least one network")
        titles = [network.title for network in self.networks]
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")
        require(len(set(titles)) == len(titles), f"networks must differ in name or label, got {', '.join(titles)}")
        names = [particle.name for particle in self.particles]
        require(0 < len(names) == len(set(names)), f"particles must be there and differ in name, got {names}")
        for network in self.networks:
            try:
                check_size((1, 1, *self.crops.size_zyx), network.divisor, network.needs_context)
            except TomopointError as error:
                raise TomopointError(f"crops.size_zyx does not suit network {network.title!r}: {error}") from error
            _check_segmentation(network, self)
            optimiser = network.optimiser or self.optimiser
            require(
                optimiser.freeze == "none" or network.pretrained is not None,
                f"optimiser.freeze is {optimiser.freeze}, but network {network.title!r} starts fresh and would keep "
                "random weights; give it `pretrained` weights, or its own optimiser: {freeze: none}",
            )
            _check_length(network.title, optimiser, network.fit or self.fit)
        self._check_losses()

    def _check_losses(self) -> None:
        """Refuse options of the loss that no network of the recipe can use, and those of a network that it cannot."""
        own = [(network.loss, self.loss, [network]) for network in self.networks if network.loss is not None]
        for loss, below, users in [(self.loss, LossOptions(), list(self.networks)), *own]:
            for name in loss.useless_for(users[0].name):
                of_all = all(name in loss.useless_for(network.name) for network in users)
                if of_all and getattr(loss, name) != getattr(below, name):
                    titles = ", ".join(repr(network.title) for network in users)
                    usable = ", ".join(sorted(LossOptions.used_by(users[0].name)))
                    raise TomopointError(
                        f"loss.{name} has no effect on network {titles}; remove it. Its options are {usable}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return every option as plain JSON values; those that earlier versions did not have, where they are used."""
        content = plain(self)
        for shown, network in zip(content["networks"], self.networks, strict=True):
            own = {name: getattr(network, name) for name in OWN_OPTIONS if getattr(network, name) is not None}
            shown.update({name: plain(options, getattr(self, name)) for name, options in own.items()})
        as_json: dict[str, Any] = json.loads(json.dumps(content))
        return as_json

    @property
    def digest(self) -> str:
        """SHA-256 of all options, as :meth:`to_dict` gives them."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def radii_vox(self, voxel_A: float) -> list[float]:
        """Return the radius of every particle, voxels."""
        return [particle.radius_A / voxel_A for particle in self.particles]

    def with_fit(self, **changes: Any) -> Recipe:
        """Return a copy with these options of `fit` changed for every network; None leaves an option as it is."""
        given = {k: v for k, v in changes.items() if v is not None}
        networks = [n if n.fit is None else replace(n, fit=replace(n.fit, **given)) for n in self.networks]
        return replace(self, fit=replace(self.fit, **given), networks=tuple(networks))

    def for_network(self, index: int) -> Recipe:
        """Return the recipe of network number `index` alone: its options are those that it is trained with."""
        network = self.networks[index]
        own = {name: getattr(network, name) for name in OWN_OPTIONS if getattr(network, name) is not None}
        if network.learning_rate is not None:
            own["optimiser"] = replace(own.get("optimiser", self.optimiser), learning_rate=network.learning_rate)
        loss = own.get("loss", self.loss)  # the recipe's may hold what is meant for other networks
        own["loss"] = replace(loss, **{name: getattr(LossOptions(), name) for name in loss.useless_for(network.name)})
        alone = replace(network, augmentation=None, loss=None, optimiser=None, fit=None)
        return replace(self, networks=(alone,), **own)

    def save(self, path: Path) -> None:
        """Write every option as YAML, atomically."""
        import yaml

        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def _check_length(network: str, optimiser: OptimiserOptions, fit: FitOptions) -> None:
    """Refuse what optimiser and fit cannot do together."""
    if optimiser.name == "adamw-schedulefree" and fit.averaging != "none":
        raise TomopointError(
            f"network {network!r}: optimiser 'adamw-schedulefree' averages weights itself; set fit.averaging to none "
            f"instead of {fit.averaging}"
        )
    if fit.averaging == "swa" and optimiser.schedule not in ("cosine", "constant"):
        raise TomopointError(
            f"network {network!r}: averaging swa holds the rate of its last quarter, which schedule "
            f"{optimiser.schedule!r} moves; set schedule to cosine or constant, or another averaging"
        )
    if optimiser.schedule == "one-cycle" and fit.max_minutes:
        raise TomopointError(
            f"network {network!r}: schedule 'one-cycle' must know its steps, but max_minutes ends it by the clock; set "
            "schedule to cosine, or limit epochs"
        )
    if optimiser.schedule == "plateau" and not (fit.score_every or fit.validation_crops):
        raise TomopointError(
            f"network {network!r}: schedule 'plateau' waits for validations, but nothing is validated; set "
            "fit.validation_crops or fit.score_every"
        )


def _check_segmentation(network: NetworkRecipe, recipe: Recipe) -> None:
    """Refuse options of the training that a network cannot follow."""
    augmentation, fit = network.augmentation or recipe.augmentation, network.fit or recipe.fit
    segmentation, optimiser = network.kind == "segmentation", network.optimiser or recipe.optimiser
    title = repr(network.title)
    require(
        segmentation or not augmentation.batch_mixup,
        f"augmentation.batch_mixup blends maps, but network {title} is asked for points; for points there is mixup",
    )
    require(
        not (segmentation and augmentation.mixup),
        f"augmentation.mixup gives network {title} two crops' particles in full; segmentation has batch_mixup",
    )
    require(
        not augmentation.batch_mixup or fit.batch_size > 1,
        f"augmentation.batch_mixup of network {title} needs two crops in a batch; set fit.batch_size to 2 or more",
    )
    levels, weights = network.resolved().levels or 1, (network.loss or recipe.loss).segmentation.level_weights
    require(
        not segmentation or levels == len(weights),
        f"network {title} has levels: {levels}, and loss.segmentation.level_weights names {len(weights)}: {weights}",
    )
    require(
        not network.has_batch_norm or fit.averaging != "swa",
        f"fit.averaging is swa, but the batch norms of network {title} would not know the mean's statistics; use ema",
    )
    require(
        not network.has_batch_norm or optimiser.freeze == "none",
        f"optimiser.freeze is {optimiser.freeze}, but the statistics of the batch norms of network {title} would move "
        "all the same; set freeze to none, and backbone_rate to less than head_rate",
    )
