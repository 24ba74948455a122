"""What exactly a message says: where in the file, what was given, what is allowed."""

from __future__ import annotations

import json

import pytest
from damage import changed
from kinds import HASH, KINDS, MANIFEST, RECORD

from tomopoint.errors import TomopointError
from tomopoint.kaggle.submit import choose_provider

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
    (kind,) = (kind for kind in KINDS.values() if kind.name == name)
    path = tmp_path / name
    path.write_bytes(kind.written(changed(kind.good(), place, value)))
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


EXPLODING = [
    b"&a [*a]",
    b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9) if n else b"x") for n in range(12)),
    b"".join(
        b"a%d: &a%d {%s}\n" % (n, n, b"<<: [" + b", ".join([b"*a%d" % (n - 1)] * 9) + b"]" if n else b"x: 1")
        for n in range(12)
    ),
]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (EXPLODING[0], "must be|deep"),
        (EXPLODING[1], "it holds more than 50000 values|deep"),
        (EXPLODING[2], "'<<' is not taken"),
        (b"seed: 3\nseed: 4\n", "'seed' is there twice"),
        (b"fit: {epochs: 3, epochs: 4}\n", "'epochs' is there twice"),
        (b"2024-13-45", "cannot be read as YAML"),
        (b"!!bool maybe", "cannot be read as YAML"),
        (b"!!python/object/apply:os.system [ls]", "cannot be read as YAML"),
        (b"seed: 0x" + b"f" * 5000, "too large"),
        (b"networks: [{name: segresnet, label: ../../up}]", "label of network 'segresnet' must be a plain name"),
        (b"networks: [{name: segresnet, init_filters: 9223372036854775807}]", "init_filters .* at most 4096"),
        (b"networks: [{name: segresnet, blocks_down: [1, 99999999999]}]", "blocks_down .* at most 64"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_recipe_that_explodes_climbs_or_repeats_itself(tmp_path, raw, sentence):
    path = tmp_path / "mine.yaml"
    path.write_bytes(raw)
    with pytest.raises(TomopointError, match=sentence) as caught:
        KINDS["recipe"].read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind.dump is json.dumps and "store" not in n])
def test_a_field_that_is_there_twice_is_refused(tmp_path, name):
    """Python would take the last, another reader the first."""
    kind = KINDS[name]
    kind.prepare(tmp_path)
    path, good = tmp_path / kind.name, kind.good()
    first = next(iter(good))
    path.write_text("{" + f"{json.dumps(first)}: 1, " + json.dumps(good)[1:])
    if kind.always:
        kind.read(path)
    else:
        with pytest.raises(TomopointError):
            kind.read(path)
