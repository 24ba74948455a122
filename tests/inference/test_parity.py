import numpy as np
import pytest

from tomopoint.errors import DataError, EngineError
from tomopoint.inference.parity import (
    FP16,
    FP32_FULL,
    FP32_SMALL,
    LARGE_ON_CPU,
    Outputs,
    ParityRow,
    Tolerance,
    compare,
    format_table,
    tolerance_for,
    top1_agreement,
)
from tomopoint.inference.reference import Reference, synthetic_windows
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

TOLERANCE = Tolerance(scores=0.01, offsets_vox=0.1)
STRIDE = 2


@pytest.fixture
def pipeline():
    return Pipeline(COMPETITION_PARTICLES, voxel_A=10.0, tiling=Tiling((32, 32, 40), (16, 16, 16), 0.1))


def _outputs():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.5, (1, 3, 8, 8, 8)).astype(np.float32)
    for channel, cell in enumerate([(1, 2, 3), (4, 4, 4), (7, 0, 5)]):
        scores[(0, channel, *cell)] = 0.9
    return Outputs(scores, rng.uniform(-1, 1, (1, 3, 8, 8, 8)).astype(np.float32))


def _changed(outputs, scores=(), offsets=()):
    s, o = outputs.scores.copy(), outputs.offsets.copy()
    for place, value in scores:
        s[place] = value
    for place, value in offsets:
        o[place] = value
    return Outputs(s, o)


def test_errors_are_measured():
    expected = _outputs()
    got = _changed(
        expected,
        scores=[((0, 0, 0, 0, 0), expected.scores[0, 0, 0, 0, 0] + 0.5)],
        offsets=[((0, 1, 0, 0, 0), expected.offsets[0, 1, 0, 0, 0] - 0.25)],
    )
    row = compare("x", "cpu", expected, got, TOLERANCE, STRIDE)
    assert row.scores_max == pytest.approx(0.5, abs=1e-6)
    assert row.scores_mean == pytest.approx(0.5 / (3 * 512), abs=1e-8)
    assert row.offsets_max_vox == pytest.approx(0.25, abs=1e-6)
    assert row.offsets_mean_vox == pytest.approx(0.25 / (3 * 512), abs=1e-8)
    assert not row.ok


@pytest.mark.parametrize("what", ["scores", "offsets"])
def test_nan_never_passes(what):
    expected = _outputs()
    got = _changed(expected, **{what: [((0, 0, 0, 0, 0), np.nan)]})
    assert not compare("x", "cpu", expected, got, TOLERANCE, STRIDE).ok


def test_another_best_cell_is_a_disagreement():
    expected = _outputs()
    got = _changed(expected, scores=[((0, 1, 0, 0, 0), 0.95)])
    assert top1_agreement(expected, got, TOLERANCE, STRIDE) == pytest.approx(2 / 3)


def test_tied_cells_agree():
    expected = _changed(_outputs(), scores=[((0, 1, 0, 0, 0), 0.9 - 0.5 * TOLERANCE.scores)])
    got = _changed(expected, scores=[((0, 1, 0, 0, 0), 0.9 + 0.5 * TOLERANCE.scores)])
    assert top1_agreement(expected, got, TOLERANCE, STRIDE) == 1.0


def test_neighbouring_cells_whose_offsets_meet_agree():
    expected, cell, neighbour = _outputs(), (4, 4, 4), (4, 4, 5)
    # Cell 4 points +1 along x, cell 5 points -1: with stride 2 both mean x = 10.
    expected = _changed(
        expected,
        offsets=[((0, slice(None), *cell), (0, 0, 1)), ((0, slice(None), *neighbour), (0, 0, -1))],
        scores=[((0, 1, *neighbour), 0.5)],
    )
    got = _changed(expected, scores=[((0, 1, *neighbour), 0.95)])
    assert top1_agreement(expected, got, TOLERANCE, STRIDE) == 1.0


def test_wrong_offset_at_the_best_cell_is_a_disagreement():
    expected = _outputs()
    got = _changed(expected, offsets=[((0, 0, 4, 4, 4), expected.offsets[0, 0, 4, 4, 4] + 1.5)])
    assert top1_agreement(expected, got, TOLERANCE, STRIDE) == pytest.approx(2 / 3)


def test_other_shapes_are_not_compared():
    expected = _outputs()
    with pytest.raises(ValueError, match=r"expected \(1, 3, 8, 8, 8\)"):
        compare("x", "cpu", expected, Outputs(expected.scores[:, :2], expected.offsets), TOLERANCE, STRIDE)


def test_tolerances_widen_with_window_and_precision():
    cpu, gpu = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert tolerance_for("fp32", (64, 64, 64), cpu) == FP32_SMALL
    assert tolerance_for("fp32", (192, 128, 128), cpu) == FP32_FULL
    assert tolerance_for("fp16", (64, 64, 64), cpu) == tolerance_for("fp16", (192, 128, 128), cpu) == FP16
    assert tolerance_for("fp32", (192, 256, 256), cpu) == tolerance_for("fp16", (192, 256, 256), cpu) == LARGE_ON_CPU
    assert tolerance_for("fp16", (192, 256, 256), gpu) == tolerance_for("fp16", (192, 256, 256), "TensorRT") == FP16
    assert tolerance_for("fp32", (192, 256, 256), gpu) == FP32_FULL


def test_a_row_survives_json_and_shows_its_verdict():
    expected = _outputs()
    row = compare("whole graph", "cpu", expected, expected, TOLERANCE, STRIDE)
    assert row.ok
    assert ParityRow.from_dict(row.to_dict()) == row
    assert "ok, allowed 0.01 / 0.1 vox" in format_table([row])


def test_synthetic_windows_are_normalised_dark_in_places_and_repeatable(pipeline):
    windows = synthetic_windows(pipeline, (32, 32, 40), batch=2)
    assert windows.shape == (2, 1, 32, 32, 40)
    assert windows.dtype == np.float32
    assert abs(windows[1].mean()) < 1e-4
    assert windows[1].std() == pytest.approx(1, abs=1e-4)
    assert not np.array_equal(windows[0], windows[1])
    np.testing.assert_array_equal(windows, synthetic_windows(pipeline, (32, 32, 40), batch=2))
    # Dips, which are dark, skew the values to the left.
    assert ((windows - windows.mean()) ** 3).mean() < -0.05


def test_a_reference_survives_the_disk_and_knows_its_graph(tmp_path, pipeline):
    windows = synthetic_windows(pipeline, (16, 16, 16), batch=1)
    reference = Reference(windows, _outputs(), "fp16", "ab" * 32)
    reference.save(tmp_path / "reference.npz")
    loaded = Reference.load(tmp_path / "reference.npz")
    np.testing.assert_array_equal(loaded.windows, windows)
    np.testing.assert_array_equal(loaded.outputs.offsets, reference.outputs.offsets)
    assert (loaded.precision, loaded.onnx_sha256) == ("fp16", "ab" * 32)
    assert (loaded.window_zyx, loaded.stride) == ((16, 16, 16), STRIDE)
    with pytest.raises(EngineError, match=r"abababababab.*export it again"):
        loaded.require_graph("cd" * 32, tmp_path / "ensemble.onnx")


def test_a_damaged_reference_is_named(tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(DataError, match=r"reference\.npz"):
        Reference.load(path)
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"reference\.npz"):
        Reference.load(path)
