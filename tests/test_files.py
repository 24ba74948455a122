"""What may be replaced, what survives a power cut, and which names may lead where."""

import os
import socket
from pathlib import Path

import pytest

from tomopoint import files
from tomopoint.errors import TomopointError
from tomopoint.files import check_output, is_local_path, is_plain_name, whole_or_absent, write_atomically


def test_a_device_a_pipe_a_socket_and_a_folder_are_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "device").symlink_to("/dev/full")  # a link: if this test failed, the machine would keep its device
    (tmp_path / "linked").symlink_to(tmp_path / "folder")
    before = {path.name: os.lstat(path) for path in tmp_path.iterdir()}
    kinds = {"folder": "a folder", "linked": "a folder"}
    for name in before:
        with pytest.raises(
            TomopointError, match=rf"{name} is {kinds.get(name, 'a device, pipe or socket')} .*name a file"
        ):
            write_atomically(tmp_path / name, "text")
    assert {path.name: os.lstat(path) for path in tmp_path.iterdir()} == before


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("out", "dangling"):
        write_atomically(tmp_path / name, "new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert not (tmp_path / "nothing").exists()


def test_an_input_under_whatever_name_is_no_output(tmp_path, monkeypatch):
    (tmp_path / "picks.csv").write_text("scores")
    (tmp_path / "link.csv").symlink_to(tmp_path / "picks.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "picks.csv")
    (tmp_path / "other.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    inputs = [tmp_path / "absent.json", tmp_path / "picks.csv"]
    for name in ("picks.csv", "link.csv", "hard.csv", "./picks.csv", str(tmp_path / "x" / ".." / "picks.csv")):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(TomopointError, match="is read by this command"):
            check_output(Path(name), inputs)
    check_output(Path("other.csv"), inputs)
    check_output(Path("new.csv"), inputs)


def test_a_finished_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor):
        order.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real_sync(descriptor)

    def replace(self, target):
        order.append(("rename", target.name))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "part.csv", "text")
    part = order[0][1]
    assert part.startswith(f".part.csv.{os.getpid()}-")
    assert order == [("sync", part), ("rename", "part.csv"), ("sync", tmp_path.name)]


def test_what_the_disk_did_not_take_is_not_put_in_place(tmp_path, monkeypatch):
    (tmp_path / "part.csv").write_text("earlier")

    def full(descriptor):
        raise OSError(files.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "part.csv", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["part.csv"]
    assert (tmp_path / "part.csv").read_text() == "earlier"


def test_a_file_system_that_cannot_wait_for_the_disk_is_written_to_all_the_same(tmp_path, monkeypatch):
    def cannot(descriptor):
        raise OSError(files.errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    write_atomically(tmp_path / "part.csv", "text")
    assert (tmp_path / "part.csv").read_text() == "text"


def test_nothing_is_written_before_the_refusal(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(TomopointError, match="is a folder"), whole_or_absent(tmp_path / "out"):
        pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["ribosome", "beta-galactosidase", "TS 5.4", "wbp", "NA", "ü" * 100])
def test_plain_names(name):
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "/abs", "a\\b", "a\0b", "a\nb", "\ud800", "a" * 201, "ü" * 101]
)
def test_names_that_lead_elsewhere_or_cannot_be_written(name):
    assert not is_plain_name(name)


def test_paths_that_stay_in_a_folder():
    for name in ("a.whl", "cache/x.engine", "absent"):
        assert is_local_path(name)
    for name in (
        "../kit/a.whl",
        "cache/../../up",
        "/etc/passwd",
        "",
        "a\0b",
        "\ud800",
        "a" * 300,
        "a/" * 900,
        "..\\up",
    ):
        assert not is_local_path(name)
