"""F4 per class and epoch: read from what training writes, and drawn."""

import pytest

from tomopoint.errors import DataError
from tomopoint.evaluation import figures
from tomopoint.evaluation.epochs import METRICS, read_epoch_scores
from tomopoint.evaluation.history import _epochs
from tomopoint.training.checkpoints import write_metrics


def row(epoch, **scores):
    figures = {"epoch": float(epoch), "step": 10.0 * (epoch + 1), "train_loss": 1.0}
    if scores:
        figures["score"] = sum(scores.values()) / len(scores)
    return figures | {f"score/{name}": value for name, value in scores.items()}


@pytest.fixture
def folder(tmp_path):
    """Two members scored every second epoch, one that never was, and one of an earlier version without classes."""
    members = {
        "fold0/segresnet": [row(0), row(1, virus=0.25, ribosome=0.5), row(2), row(3, virus=0.75, ribosome=0.625)],
        "fold1/segresnet": [row(0), row(1, virus=0.5, ribosome=0.5)],
        "fold0/dynunet": [row(0)],
        "fold1/dynunet": [{**row(0), "score": 0.5}],
    }
    for name, rows in members.items():
        (tmp_path / name).mkdir(parents=True)
        write_metrics(rows, tmp_path / name / METRICS)
    return tmp_path


def test_scored_epochs_are_read_class_by_class(folder):
    members = read_epoch_scores(folder)
    assert list(members) == ["fold0/segresnet", "fold1/segresnet"]
    table = members["fold0/segresnet"]
    assert table["epoch"].tolist() == [1, 3]
    assert table["score"].tolist() == [0.375, 0.6875]
    assert table["score/virus"].tolist() == [0.25, 0.75]


def test_a_damaged_table_is_named(folder):
    (folder / "fold0" / "segresnet" / METRICS).write_text("epoch,score,score/virus\n0,high,0.5\n")
    with pytest.raises(DataError, match=r"fold0/segresnet/metrics\.csv is damaged"):
        read_epoch_scores(folder)


def test_every_member_is_a_line_in_the_panel_of_each_particle(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_svg", lambda figure: drawn.append(figure) or "<svg></svg>")
    members = read_epoch_scores(folder)
    assert len(figures.draw_epoch_scores(["virus", "ribosome"], members)) == 2
    virus, ribosome = (figure.axes[0] for figure in drawn)
    assert [line.get_xdata().tolist() for line in virus.lines] == [[2, 4], [2]]
    assert [line.get_ydata().tolist() for line in virus.lines] == [[0.25, 0.75], [0.5]]
    assert [line.get_ydata().tolist() for line in ribosome.lines] == [[0.5, 0.625], [0.5]]
    assert [name for name, _ in figures.networks_of(members)] == ["segresnet"]


def test_the_report_has_a_section_per_training_folder_that_was_scored(folder, tmp_path):
    assert len(_epochs(folder, {}, ["virus", "ribosome"])) == 1
    assert len(_epochs(folder, {"training_folders": [str(folder)]}, ["virus"])) == 1
    both = {"training_folders": [str(folder), str(tmp_path / "elsewhere")]}
    assert len(_epochs(tmp_path / "ensemble", both, ["virus"])) == 1
    assert _epochs(tmp_path / "elsewhere", {}, ["virus"]) == []
