"""Models by name: found, listed, predicted with, staged. The box is a folder of the test, with a graph of its own."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tomopoint.errors import TomopointError
from tomopoint.evaluation import report as report_module
from tomopoint.evaluation.command import report
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.rebuilt import rebuild_reference, reference_of
from tomopoint.files import sha256_of
from tomopoint.inference.command import models, predict
from tomopoint.inference.reference import Reference
from tomopoint.kaggle.command import stage
from tomopoint.kaggle.dataset import MODEL_CARD, check_dataset
from tomopoint.kaggle.package_wheel import write_package_wheel
from tomopoint.models import box
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, ScoreMap, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

CHECKOUT = Path(__file__).parents[2]
CARD = "# tiny\nSimulated only.\n"
ROUNDED = 0.02
"""Scores and offsets in voxels of the same network with weights rounded to float16, 5e-4 each: far above what the
rounding does here (2e-3), far below what another network would differ by (they spread over 0 to 1 and -2 to 2)."""

SAME = 1e-5
"""The same weights in the same operations of PyTorch, in two calls: some float32 roundings at most."""


def record_of(path):
    return {
        "onnx_sha256": sha256_of(path),
        "commands": ["tomopoint train --data DATA --recipe tiny --out OUT"],
        "recipe": "tiny",
        "seeds": {"weights": 0},
        "simulated_scores": {"own world": 0.931, "other world": 0.902},
    }


@pytest.fixture
def tiny(exported, tmp_path, monkeypatch):
    """A box that holds one model, `tiny`; return its folder."""
    folder = tmp_path / "box"
    folder.mkdir()
    shutil.copyfile(exported.path, folder / "tiny.onnx")
    (folder / "tiny.md").write_text(CARD)
    (folder / "tiny.json").write_text(json.dumps(record_of(folder / "tiny.onnx")))
    monkeypatch.setattr(box, "box_folder", lambda: folder)
    return folder


def test_a_name_goes_before_a_path_and_other_names_are_listed(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert box.find_model(Path("tiny")) == tiny / "tiny.onnx"
    assert box.is_in_box(tiny / ".." / "box" / "tiny.onnx")
    (tmp_path / "tiny").write_text("mine")
    assert box.find_model(Path("tiny")) == tiny / "tiny.onnx"
    assert box.find_model(tmp_path / "tiny") == tmp_path / "tiny"
    assert not box.is_in_box(tmp_path / "tiny")
    with pytest.raises(TomopointError, match=r"no model small; give the path of a graph .* or one of tiny, which come"):
        box.find_model(Path("small"))
    (tiny / "tiny.onnx").unlink()
    with pytest.raises(TomopointError, match="this package has none"):
        box.find_model(Path("small"))


def test_models_lists_size_classes_scores_and_that_they_are_simulated(tiny, exported):
    result = models()
    assert result.text.splitlines() == [
        f"tiny: {exported.n_bytes / 1e6:.1f} MB, 1 network, for voxels of about 10 A",
        "  detects apo-ferritin, beta-galactosidase, ribosome, thyroglobulin, virus-like-particle, beta-amylase",
        "  simulated F4: own world 0.931, other world 0.902",
        f"  {box.NEVER_SEEN_A_REAL_ONE}. Model card: {tiny / 'tiny.md'}",
    ]
    assert result.figures["models"]["tiny"]["simulated_scores"] == {"own world": 0.931, "other world": 0.902}


def test_models_says_what_does_not_belong_together(tiny):
    with (tiny / "tiny.onnx").open("ab") as stream:
        stream.write(b"\x08\x0a")  # the format version, once more: still a graph, of other bytes
    with pytest.raises(TomopointError, match=r"tiny\.onnx is not the graph that its record describes"):
        models()
    (tiny / "tiny.json").write_text("{}")
    with pytest.raises(TomopointError, match=r"tiny\.json is no record of a model"):
        models()
    shutil.rmtree(tiny)
    assert models().figures["models"] == {}


def test_the_models_of_this_package_belong_to_their_cards_and_records():
    found = models().figures["models"]
    assert set(found) == {path.stem for path in box.box_folder().glob("*.json")} == set(box.box_models())
    assert all(box.card_of(path) for path in box.box_models().values())
    assert "small" in found  # the demo, the picker and the documents name it


def test_predict_takes_a_name_and_says_once_what_it_has_not_seen(tiny, exported, project, tmp_path, caplog):
    options = {"data": project, "runs": "TS_1", "provider": "cpu", "workers": 1}
    with caplog.at_level(logging.INFO):
        assert predict(model=Path("tiny"), out=tmp_path / "by-name", **options).ok
    said = [record for record in caplog.records if box.NEVER_SEEN_A_REAL_ONE in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]
    assert predict(model=exported.path, out=tmp_path / "by-path", **options).ok
    tables = [pd.read_csv(tmp_path / name / "picks.csv") for name in ("by-name", "by-path")]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) > 0


def test_a_reference_is_made_again_from_the_weights_of_the_graph(tiny, exported):
    """The windows are those of the export; the answers are PyTorch's with weights rounded as the graph holds them."""
    original = Reference.load(exported.path.with_name("reference.npz"))
    with reference_of(tiny / "tiny.onnx") as path:
        made = Reference.load(path)
    assert not path.exists()
    assert (made.onnx_sha256, made.precision) == (original.onnx_sha256, "fp16")
    assert np.array_equal(made.windows, original.windows)
    for answers, trained in (
        (made.outputs.scores, original.outputs.scores),
        (made.outputs.offsets, original.outputs.offsets),
    ):
        assert np.abs(answers - trained).max() < ROUNDED
        assert trained.std() > 5 * ROUNDED
    with reference_of(exported.path) as path:
        assert path == exported.path.with_name("reference.npz")


def test_in_float32_the_reference_made_again_is_that_of_the_export(tmp_path):
    """Two kinds of unequal weight per particle, a map, a second view, offsets by score: all that a graph averages."""
    configs = (
        NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=4, offset_width=4),
        NetworkConfig("dynunet", filters=(4, 4, 8), features=4, class_width=4, offset_width=4),
    )
    torch.manual_seed(0)
    networks = []
    for config in configs:
        network = build_network(config, len(COMPETITION_PARTICLES), 2).eval().requires_grad_(False)
        for parameter in network.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
        networks.append(network)
    members = (
        Member("fold0", configs[0].name, (), None, "0" * 64, class_weights=(1.0, 2.0, 3.0, 1.0, 0.5, 1.0)),
        Member("fold0", configs[1].name, (), None, "1" * 64, weight=2.0, kind="segmentation"),
    )
    pipeline = Pipeline(
        COMPETITION_PARTICLES,
        10.0,
        tiling=Tiling((16, 16, 24), (4, 4, 4)),
        views=("identity", "flip_x"),
        view_merge="max",
        offset_average="score",
        members=members,
        score_maps=(ScoreMap("segmentation", "ribosome", (0.0, 0.2, 0.5, 1.0), (0.0, 0.5, 0.6, 1.0)),),
    )
    merged = ValidatedEnsemble(tuple(networks), pipeline, configs)
    path = export_merged(merged, tmp_path / "g.onnx", ExportOptions(batch=2, precision="fp32")).path
    original, made = Reference.load(path.with_name("reference.npz")), rebuild_reference(path)
    assert np.array_equal(made.windows, original.windows)
    assert np.abs(made.outputs.scores - original.outputs.scores).max() < SAME
    assert np.abs(made.outputs.offsets - original.outputs.offsets).max() < SAME


def test_a_kit_is_staged_by_name_and_the_card_travels_with_it(tiny, checkout, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tomopoint.kaggle.home.kaggle_home", lambda or_packaged: checkout)
    result = stage(model=Path("tiny"), out=tmp_path / "kit")
    assert result.ok
    manifest = check_dataset(tmp_path / "kit")
    assert manifest.onnx_sha256 == sha256_of(tiny / "tiny.onnx")
    assert (tmp_path / "kit" / MODEL_CARD).read_text() == CARD
    assert MODEL_CARD in manifest.files
    assert sum(box.NEVER_SEEN_A_REAL_ONE in message for message in caplog.messages) == 1


def test_a_report_takes_a_name(tiny, tmp_path, monkeypatch):
    given = []

    def sources_only(sources):
        given.append(sources.model)
        raise TomopointError("far enough")

    monkeypatch.setattr(report_module, "build_report", sources_only)
    with pytest.raises(TomopointError, match="far enough"):
        report(data=tmp_path, submission=[tmp_path / "s.csv"], truth=tmp_path, model=Path("tiny"))
    assert given == [tiny / "tiny.onnx"]


def test_the_wheel_carries_the_models_though_git_ignores_other_graphs(tiny, checkout, tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(checkout, copy)
    shutil.copy(CHECKOUT / ".gitignore", copy / ".gitignore")
    for path in tiny.iterdir():
        shutil.copy(path, copy / "src" / "tomopoint" / "models" / path.name)
    shutil.copy(tiny / "tiny.onnx", copy / "src" / "tomopoint" / "export" / "left-over.onnx")
    write_package_wheel(copy, tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").iterdir()
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {"tiny.onnx", "tiny.md", "tiny.json"} <= names
    assert "left-over.onnx" not in names
