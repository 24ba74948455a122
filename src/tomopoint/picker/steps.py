"""The steps to a picker, each a command that can be typed, and where each puts what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.particles import PARTICLES_NAME
from tomopoint.data.project import SAMPLE_SUBMISSION, TRUTH_FOLDER, Run
from tomopoint.evaluation.calibration import VALIDATION_NAME
from tomopoint.files import write_atomically
from tomopoint.inference.folder import SUBMISSION_NAME
from tomopoint.models.box import SUFFIX, box_models
from tomopoint.picker.plan import QUICK_STEPS, Plan
from tomopoint.pipeline import PIPELINE_NAME
from tomopoint.road import Step
from tomopoint.simulate.project import run_name

CARD_FIGURES = "model-card.json"
"""The model card for programs, in a picker's folder."""

DIFFICULTY = 1.5
"""Of the tomograms to train on, which are fainter than the real ones.

What is learnt on faint particles finds clear ones, too; what is learnt on clear ones does not find faint ones.
"""

THRESHOLDS = "curve:0.5"
"""How the thresholds are chosen: on average over tomograms in which scores are up to half lower.

In tomograms unlike those that a network knows its scores are lower, and those of an average of networks are lower than
those of each alone, which is what held-out runs show. F4 forgives a threshold that is too low more than one too high.
"""

PRETRAINED = "small"
"""The model of the box that a picker starts from; its backbone alone, where its classes are others."""

EXACT_LABELS = tuple(
    word for name in ("missing", "jitter-A", "conflicting", "double") for word in (f"--labels.{name}", "0")
)
"""Nobody annotated these tomograms, so nobody has made mistakes."""


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes
    ----------
    out
        The picker's folder.
    names
        Of the particles.
    """

    out: Path
    names: tuple[str, ...]

    @property
    def particles(self) -> Path:
        """What is to be found, as one particles file."""
        return self.out / PARTICLES_NAME

    @property
    def recipe(self) -> Path:
        """How the networks are trained."""
        return self.out / "recipe.yaml"

    @property
    def data(self) -> Path:
        """Tomograms to train on."""
        return self.out / "data"

    @property
    def other(self) -> Path:
        """Tomograms of the other world."""
        return self.out / "other-world"

    @property
    def trained(self) -> Path:
        """Networks, and their validation."""
        return self.out / "trained"

    @property
    def graph(self) -> Path:
        """The picker: called like its particle, where it has one."""
        return self.out / f"{self.names[0] if len(self.names) == 1 else 'picker'}{SUFFIX}"

    @property
    def other_picks(self) -> Path:
        """What it finds in the other world."""
        return self.out / "other-world-picks"

    @property
    def other_score(self) -> Path:
        """Score of that."""
        return self.out / "other-world-score.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.out / "model-card.md"

    @property
    def card_figures(self) -> Path:
        """The same for programs."""
        return self.out / CARD_FIGURES


def starting_recipe(path: Path, scratch: bool) -> str:
    """Write the recipe of a picker, unless it is there; return what its network starts from."""
    if not path.exists():
        text = "base: picker\n"
        if PRETRAINED in box_models() and not scratch:
            text += f"networks:\n  - {{name: segresnet, pretrained: {PRETRAINED}}}\n"
        write_atomically(path, text)
    return f"the model {PRETRAINED}" if "pretrained" in path.read_text() else "random weights"


def simulating_steps(places: Places, plan: Plan, voxel_A: float, seed: int) -> list[Step]:
    """Return the steps that make tomograms: to train on, and of the other world."""
    size = ("--shape", plan.shape, "--voxel-A", str(voxel_A))
    same = ("--particles", str(places.particles), *size, "--seed", str(seed))
    own = ("--train-runs", str(plan.runs), "--test-runs", "0", "--difficulty", str(DIFFICULTY), *EXACT_LABELS)
    other = ("--train-runs", "0", "--test-runs", str(plan.other_runs), "--world", "other")
    return [
        Step("simulate", (("simulate", str(places.data), *same, *own),), (places.data / SAMPLE_SUBMISSION,)),
        Step("other world", (("simulate", str(places.other), *same, *other),), (places.other / SAMPLE_SUBMISSION,)),
    ]


def training_step(places: Places, plan: Plan, seed: int, max_minutes: float | None) -> Step:
    """Return the step that trains one network on each of two folds, side by side where there are two cores."""
    length = QUICK_STEPS if max_minutes is None else ("--max-minutes", str(max_minutes))
    recipe = ("--recipe", str(places.recipe), "--seed", str(seed), *length)
    train = ("train", "--data", str(places.data), *recipe, "--out", str(places.trained))
    folds = ("0", "1") if plan.side_by_side else ("0,1",)
    members = tuple(places.trained / f"fold{fold}" / "segresnet" / "member.json" for fold in (0, 1))
    return Step("train", tuple((*train, "--folds", fold) for fold in folds), members)


def judging_steps(places: Places, plan: Plan) -> list[Step]:
    """Return the steps from networks to a graph, and to its scores in both worlds."""
    p = {name: str(getattr(places, name)) for name in ("other", "trained", "graph", "other_picks")}
    predict = ("predict", "--data", p["other"], "--model", p["graph"], "--out", p["other_picks"])
    submission, truth = places.other_picks / SUBMISSION_NAME, places.other / TRUTH_FOLDER
    score = ("score", str(submission), "--truth", str(truth), "--json")
    sample = Run(run_name("train", 0), "train", places.data).tomogram_path()
    validated = (places.trained / PIPELINE_NAME, places.trained / VALIDATION_NAME)
    return [
        Step("validate", (("validate", p["trained"], "--window", plan.window, "--thresholds", THRESHOLDS),), validated),
        Step("export", (("export", p["trained"], "-o", p["graph"], "--tomogram", str(sample)),), (places.graph,)),
        Step("predict", (predict,), (submission,), folder=places.other_picks),
        Step("score", (score,), (places.other_score,), figures=places.other_score),
    ]
