"""Small files that are not what they should be: one sentence that names the file, never a traceback.

Every kind is read the way a command reads it. What is accepted must be usable.
"""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.tables import read_pick_table
from tomopoint.errors import TomopointError
from tomopoint.inference.engines.engine_record import EngineRecord
from tomopoint.kaggle.manifest import KitFile, Manifest
from tomopoint.kaggle.submit import choose_provider
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline
from tomopoint.training.recipe_files import load_recipe

QUICK, MANY = 60, 1000
"""Examples per kind and way of damage; the second in the slow run."""

LONGEST = 3000
"""Characters of a message: an unknown field is answered with the names of all known ones."""

HASH = "ab" * 32
MANIFEST = Manifest("0", HASH, HASH, ("zarr==3.1.5", "tomopoint==0.1"), {"torch": "2"}, {"a.whl": KitFile(HASH, 3)})
RECORD = EngineRecord(
    runtime="onnxruntime-cpu",
    runtime_version="1.26.0",
    onnx_sha256=HASH,
    pipeline_digest=HASH,
    precision="fp16",
    window_zyx=(192, 128, 128),
    batch=1,
    device="the CPU",
    parity={"scores_max": 0.001, "ok": True},
    seconds_per_tile=0.25,
    options={"threads": 2},
    passed_over=("nothing",),
)
PIPELINE = Pipeline(COMPETITION_PARTICLES[:2], 10.0, members=(Member("fold0", "segresnet", ("TS_1",), 0.8, HASH),))
PICKS = {
    "pickable_object_name": "ribosome",
    "run_name": "TS_1",
    "unit": "angstrom",
    "points": [{"location": {"x": 1.0, "y": 2, "z": 3.5}, "instance_id": 0}, {"location": {"x": 4, "y": 5, "z": 6}}],
    "trust_orientation": True,
}
RECIPE = {
    "base": "demo",
    "networks": [{"name": "segresnet", "init_filters": 8, "optimiser": {"clip_norm": 1.0}, "label": "small"}],
    "folds": [["TS_1"], ["TS_2"]],
    "particles": [asdict(particle) for particle in COMPETITION_PARTICLES[:2]],
    "crops": {"size_zyx": [32, 32, 32], "tomo_types": ["denoised", "wbp"]},
    "fit": {"epochs": 2, "max_minutes": 1.5, "precision": "fp32"},
    "seed": 3,
}


def read_engine(path):
    provider, why = choose_provider(path, MANIFEST, [])
    assert provider == "cpu"
    assert why.startswith("engine.json ")
    assert len(why.splitlines()) == 1
    record = EngineRecord.load(path)
    assert EngineRecord.from_json(record.to_json()) == record or "NaN" in record.to_json()


def read_manifest(path):
    Manifest.is_ours(path)
    Manifest.load(path.parent)


def read_pipeline(path):
    pipeline = Pipeline.load(path)
    assert Pipeline.from_json(pipeline.to_json()).digest == pipeline.digest


def read_points(path):
    picks = read_picks(path)
    assert picks.points_xyz_A.shape[1:] == (3,)
    assert np.isfinite(picks.points_xyz_A).all()


@dataclass(frozen=True)
class Kind:
    name: str
    content: object
    read: object


KINDS = [
    Kind("engine.json", json.loads(RECORD.to_json()), read_engine),
    Kind("manifest.json", asdict(MANIFEST), read_manifest),
    Kind("pipeline.json", json.loads(PIPELINE.to_json()), read_pipeline),
    Kind("ribosome.json", PICKS, read_points),
    Kind("mine.yaml", RECIPE, lambda path: load_recipe(str(path))),
]
KINDS_BY_NAME = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def is_read_or_refused(kind, raw):
    """Read `raw` as a file of this kind; True where it was taken. Anything but a TomopointError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.name
        path.write_bytes(raw)
        try:
            kind.read(path)
        except TomopointError as error:
            message = str(error)
        else:
            return True
        assert str(path) in message
        assert len(message) < LONGEST
        message.encode()
        return False


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [10**400, -(2**63) - 1, 2**63 - 1, 1e308, "NaN", "1", "a" * 300, "../up", "/etc/passwd", "\ud800", "\0", "x\ny"]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value, above=()):
    """Return where everything in a parsed file lies."""
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items for place in places(item, (*above, key))]


@st.composite
def damaged(draw, content):
    """One or two values replaced, removed or added, anywhere."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(places(content) or [("nothing",)]))
        part = content
        for key in above:
            part = part[key]
        way = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if way == "remove" and last in (part if isinstance(part, dict) else range(len(part))):
            del part[last]
        elif way == "add" and isinstance(part, dict):
            part[draw(st.text(max_size=5))] = draw(VALUES)
        elif isinstance(part, dict) or last in range(len(part)):
            part[last] = draw(VALUES)
    return content


@st.composite
def cut_and_flipped(draw, raw):
    """A text with some bytes changed, put in, or the end cut off."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw[: draw(st.integers(0, len(raw)))]) if draw(st.booleans()) else bytes(raw)


def written(kind, content):
    text = yaml.safe_dump(content) if kind.name.endswith(".yaml") else json.dumps(content)
    return text.encode(errors="surrogatepass")


def check_many(kind, n):
    quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=n, **quiet)
    @given(damaged(kind.content))
    def values(content):
        is_read_or_refused(kind, written(kind, content))

    @settings(max_examples=n // 2, **quiet)
    @given(VALUES)
    def something_else(content):
        is_read_or_refused(kind, written(kind, content))

    @settings(max_examples=n, **quiet)
    @given(cut_and_flipped(written(kind, kind.content)) | st.binary(max_size=50))
    def raw_bytes(raw):
        is_read_or_refused(kind, raw)

    for check in (values, something_else, raw_bytes):
        check()


@KINDS_BY_NAME
def test_the_undamaged_file_is_taken(kind):
    assert is_read_or_refused(kind, written(kind, kind.content))


@KINDS_BY_NAME
def test_damage_of_any_kind_is_refused_with_a_sentence(kind):
    check_many(kind, QUICK)


@pytest.mark.slow
@KINDS_BY_NAME
def test_much_damage_of_any_kind_is_refused_with_a_sentence(kind):
    check_many(kind, MANY)


@KINDS_BY_NAME
@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"\xff\xfe\x00\x01",
        b"\x80" * 100,
        b"[" * 900 + b"]" * 900,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' * 100 + b"1" + b"}" * 100,
        b"9" * 5000,
        b'{"version": ' + b"9" * 5000 + b"}",
        b"0x" + b"f" * 5000,
        b"1e400",
        b"NaN",
        b'"a text"',
        b"[1, 2]",
        b"2024-13-45",
        b"!!bool maybe",
        b"&a [*a]",
        b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9) if n else b"x") for n in range(12)),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_files_of_another_kind_are_refused(kind, raw):
    assert not is_read_or_refused(kind, raw)


@KINDS_BY_NAME
def test_a_folder_in_the_place_of_a_file_is_refused(kind, tmp_path):
    path = tmp_path / kind.name
    path.mkdir()
    with pytest.raises(TomopointError) as caught:
        kind.read(path)
    assert str(path) in str(caught.value)


def changed(content, place, value):
    content = copy.deepcopy(content)
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return content


WRONG = {
    "engine.json": [
        (("window_zyx",), ["a", "b", "c"], r"window_zyx\[0\] must be a whole number, got 'a'"),
        (("window_zyx",), [192, 128], "window_zyx must be a list of 3"),
        (("window_zyx",), [192, 128, 0], "must be positive"),
        (("batch",), True, "batch must be a whole number, got True"),
        (("batch",), 10**30, "is too large"),
        (("seconds_per_tile",), "fast", "seconds_per_tile must be a finite number or null, got 'fast'"),
        (("seconds_per_tile",), float("inf"), "seconds_per_tile must be a finite number or null, got inf"),
        (("parity",), [1], r"parity must be an object with fields or null, got \[1\]"),
        (("files",), {"a": 1}, r"files\['a'\] must be a text, got 1"),
        (("files",), ["a"], "files must be an object"),
        (("passed_over",), "nothing", "passed_over must be a list, got 'nothing'"),
        (("runtime",), ["tensorrt"], r"runtime must be a text, got \['tensorrt'\]"),
        (("device",), "T4\nand a second line", "must be printable and short"),
    ],
    "manifest.json": [
        (("install",), "zarr==3.1.5", "install must be a list"),
        (("install",), ["zarr"], "install must name packages as name==version, got 'zarr'"),
        (("install",), ["--index-url=http://x==1"], "name==version"),
        (("install",), ["-rfile==1"], "name==version"),
        (("install",), ["../evil.whl"], "name==version"),
        (("install",), ["x @ http://y==1"], "name==version"),
        (("install",), ["zarr==3.1.5\n--pre"], "name==version"),
        (("files", "../up.whl"), {"sha256": HASH, "bytes": 1}, "'../up.whl' does not lie in the kit"),
        (("files", "/etc/passwd"), {"sha256": HASH, "bytes": 1}, "'/etc/passwd' does not lie in the kit"),
        (("files", "a.whl"), {"sha256": HASH, "bytes": 1, "more": 2}, r"unknown field files\['a.whl'\]\.more"),
        (("files", "a.whl"), {"sha256": HASH}, r"files\['a.whl'\] lacks bytes"),
        (("files",), [], "files must be an object"),
    ],
    "pipeline.json": [
        (("tomo_type",), "../../other", "tomo_type must be a plain name"),
        (("tomo_type",), "a" * 251, "tomo_type must be a plain name"),
        (("particles", 0, "name"), "a/b", "particle's name must be a plain name"),
        (("particles", 0, "name"), ["a"], r"particles\[0\]\.name must be a text, got \['a'\]"),
        (("particles", 0, "name"), "a" * 251, "particle's name must be a plain name"),
        (("particles", 0, "radius_A"), "60", r"particles\[0\]\.radius_A must be a finite number, got '60'"),
        (("particles", 0, "radius_A"), float("inf"), "must be a finite number, got inf"),
        (("particles", 0, "threshold"), float("nan"), "must be a finite number, got nan"),
        (("voxel_A",), 10**400, "is too large"),
        (("stride",), 2.0, "stride must be a whole number, got 2.0"),
        (("views",), "identity", "views must be a list, got 'identity'"),
        (("members",), {}, "members must be a list"),
    ],
    "ribosome.json": [
        (("run_name",), ["TS_1"], r"run_name must be a text, got \['TS_1'\]"),
        (("points", 0, "location", "x"), "1.0", r"points\[0\]\.location\.x must be a finite number, got '1\.0'"),
        (("points", 1, "location"), [1, 2, 3], r"points\[1\]\.location must be an object with fields, got \[1, 2, 3\]"),
        (("points",), {"location": 1}, "points must be a list or null"),
        (("unit",), "nanometer", "the unit is 'nanometer'"),
    ],
    "mine.yaml": [
        (("crops", "tomo_types"), ["../.."], "tomo_types must be a plain name"),
        (("networks",), 5, "networks must be a list.*got 5"),
        (("networks",), [{"name": ["a"]}], r"name"),
        (("fit", "epochs"), "many", "fit.epochs"),
        (("seed",), 2**70, "is too large"),
        (("particles", 0, "name"), "a/b", "particle's name must be a plain name"),
    ],
}


@pytest.mark.parametrize(
    ("name", "place", "value", "sentence"), [(n, *case) for n, cases in WRONG.items() for case in cases]
)
def test_the_sentence_says_what_is_wrong(tmp_path, name, place, value, sentence):
    (kind,) = (kind for kind in KINDS if kind.name == name)
    path = tmp_path / name
    path.write_bytes(written(kind, changed(kind.content, place, value)))
    with pytest.raises(TomopointError, match=sentence) as caught:
        kind.read(path)
    assert str(path) in str(caught.value)


def test_a_record_of_files_elsewhere_is_not_used(tmp_path):
    (tmp_path / "kit").mkdir()
    outside = tmp_path / "secret"
    outside.write_text("x")
    for name in ("../secret", str(outside), "a\0b", "a" * 2000, ""):
        values = {**json.loads(RECORD.to_json()), "files": {name: HASH}}
        path = tmp_path / "kit" / "engine.json"
        path.write_text(json.dumps(values))
        provider, why = choose_provider(path, MANIFEST, [])
        assert provider == "cpu"
        assert "does not lie beside its record" in why


HEADER = b"experiment,particle_type,x,y,z,score\n"
ROW = b"TS_1,ribosome,1.5,2,3,0.5\n"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,high\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,nan\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"\n\nTS_1,ribosome,1,2,3\n", "line 5: score is not a finite number"),
        (HEADER + b"TS_1,ribosome,1,2,inf,0.5\n", "line 2: z is not a finite number"),
        (HEADER + b"TS_1,ribosome,True,2,3,0.5\n", "line 2: x is not a finite number"),
        (HEADER + b"TS_1,ribosome,%s,2,3,0.5\n" % (b"9" * 500), "line 2: x is not a finite number"),
        (HEADER + b",ribosome,1,2,3,0.5\n", "line 2: experiment is empty"),
        (HEADER + b"TS_1,,1,2,3,0.5\n", "line 2: particle_type is empty"),
        (HEADER + b"TS_1,extra,ribosome,1,2,3,0.5\n", "line 2: it has more fields than the header"),
        (HEADER + b"TS_1,extra,ribosome,1,2,3,0.5\n" * 3, "line 2: it has more fields than the header"),
        (HEADER + ROW + b"TS_1,extra,ribosome,1,2,3,0.5\n", "Expected 6 fields in line 3, saw 7"),
        (b"x,x\n", "Duplicate names"),
        (HEADER + b'TS_1,"ribosome\n', "not a CSV"),
        (b"\xff\xfe", "not a CSV"),
        (b"\0\0", "no column"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path, raw, sentence):
    path = tmp_path / "picks.csv"
    path.write_bytes(raw)
    with pytest.raises(TomopointError, match=sentence) as caught:
        read_pick_table(path)
    assert str(path) in str(caught.value)


def test_names_that_look_missing_and_blank_lines_are_taken(tmp_path):
    path = tmp_path / "picks.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + b"NA,null,1,2,3,0.5\n\nnan,None,4,5,6,0.25\n1,2,7,8,9,1e-3\n\n")
    table = read_pick_table(path)
    assert table["experiment"].tolist() == ["NA", "nan", "1"]
    assert table["particle_type"].tolist() == ["null", "None", "2"]
    assert table[["x", "y", "z", "score"]].to_numpy().tolist() == [[1, 2, 3, 0.5], [4, 5, 6, 0.25], [7, 8, 9, 0.001]]


def check_tables(n):
    kind = Kind("picks.csv", None, read_pick_table)
    cells = st.sampled_from([b"1", b"", b",", b'"', b"\n", b"\r", b"\0", b"nan", b"NA", b"1e999", b"\xff", b" ", b"x"])

    @settings(max_examples=n, deadline=None)
    @given(
        cut_and_flipped(HEADER + ROW * 3) | st.lists(cells, max_size=12).map(lambda items: HEADER + b",".join(items))
    )
    def check(raw):
        is_read_or_refused(kind, raw)

    check()


def test_damaged_tables_are_read_or_refused():
    check_tables(4 * QUICK)


@pytest.mark.slow
def test_many_damaged_tables_are_read_or_refused():
    check_tables(4 * MANY)


def test_no_row_is_lost_or_moved_by_a_damaged_neighbour(tmp_path):
    """A table that is taken has every line, and every cell under its own name."""
    path = tmp_path / "picks.csv"
    path.write_bytes(HEADER + ROW * 2 + b"TS_1,ribosome,1.5,2,3,0.5,\n")
    with pytest.raises(TomopointError, match="line 4"):
        read_pick_table(path)


def test_picks_that_were_written_are_read(tmp_path):
    points = np.array([[1.5, 2.0, 3.0]])
    write_picks(tmp_path / "a.json", "NA", "null", points)
    picks = read_picks(tmp_path / "a.json")
    assert (picks.run, picks.particle) == ("NA", "null")
    assert np.array_equal(picks.points_xyz_A, points)
