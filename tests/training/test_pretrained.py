"""Members that start from trained weights: where these are found, what moves, and when a member is another's."""

import json
import logging
import shutil

import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_fit import DYNUNET, SEGRESNET, Killed, kill_after, recipe_file, run_train
from training_data import PARTICLES, VOXEL_A, write_project

from tomopoint.errors import TomopointError
from tomopoint.export.metadata import graph_metadata
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.models import box
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.graph_weights import GraphNetworks
from tomopoint.pipeline import Member, Pipeline, Tiling
from tomopoint.strict_json import build
from tomopoint.training.checkpoints import load_member, load_record
from tomopoint.training.pretrained import find_pretrained
from tomopoint.training.recipe_files import load_recipe
from tomopoint.validation.validated import ValidatedEnsemble

WINDOW = (16, 16, 16)
HALF = 2e-3
"""Of logits of about 1, from weights that the graph holds in float16: each is rounded by 5e-4 relative, and sums of
some hundred of them average that out. In float32 they are the same bits."""


def config_of(network):
    return build(NetworkConfig, {k: v for k, v in network.items() if k != "optimiser"})


def spread(network, seed):
    """Give every weight a value of its own; fresh heads answer nothing."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, mean=0.05, std=0.3)
    return network.eval().requires_grad_(False)


def export_graph(path, kinds=(SEGRESNET, DYNUNET), precision="fp32"):
    """Export networks as `tomopoint export` does; return the graph's path and the networks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    configs = tuple(config_of(kind) for kind in kinds)
    networks = tuple(spread(build_network(config, len(PARTICLES), 2), seed) for seed, config in enumerate(configs))
    members = tuple(
        Member(f"fold{index}", config.title, ("TS_0",), None, f"{index:064x}") for index, config in enumerate(configs)
    )
    pipeline = Pipeline(PARTICLES, VOXEL_A, tiling=Tiling(WINDOW, (4, 4, 4)), members=members)
    merged = ValidatedEnsemble(networks, pipeline, configs)
    return export_merged(merged, path, ExportOptions(precision=precision)).path, networks


def describe_graph(path, kinds, scores=None):
    """Write a graph that says of its networks what an exported one does, and holds none: enough to choose from."""
    configs = tuple(config_of(kind) for kind in kinds)
    members = tuple(
        Member(f"fold{index}", config.title, ("TS_0",), score, f"{index:064x}")
        for index, (config, score) in enumerate(zip(configs, scores or [None] * len(kinds), strict=True))
    )
    node = onnx.helper.make_node("Identity", ["volume"], ["scores"])
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("volume", "scores")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", sides[:1], sides[1:]))
    pipeline = Pipeline(PARTICLES, VOXEL_A, members=members)
    networks = GraphNetworks(configs).to_json()
    onnx.helper.set_model_props(model, graph_metadata(pipeline, [], {}, networks=networks))
    onnx.save(model, path)
    return path


def load(given, network, fold="fold0", particles=("small", "large")):
    """Return a fresh network that starts from what `given` names."""
    torch.manual_seed(9)
    config = config_of(network)
    made = build_network(config, len(particles), 2).eval()
    find_pretrained(str(given), config, 2, fold).load_into(made, config, particles)
    return made


def logits_of(network):
    volume = torch.randn(1, 1, *WINDOW, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return torch.cat(network.logits(volume), dim=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory):
    """A training folder with a member on each of two folds."""
    folder = tmp_path_factory.mktemp("parent")
    recipe = recipe_file(folder, fit={"epochs": 2})
    assert run_train(data, folder / "run", recipe, folds="0,1").ok
    return folder / "run"


@pytest.fixture
def fine_tuning(tmp_path, parent):
    """Write a recipe that starts from the parent; `optimiser` may hold more."""

    def write(given=parent, optimiser=None, **changes):
        return recipe_file(
            tmp_path, networks=[{**SEGRESNET, "pretrained": str(given)}], optimiser=optimiser or {}, **changes
        )

    return write


@pytest.mark.parametrize("network", [SEGRESNET, DYNUNET], ids=["segresnet", "dynunet"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_gives_the_weights_that_went_into_it(tmp_path, network, precision):
    path, networks = export_graph(tmp_path / "ensemble.onnx", precision=precision)
    source = networks[0 if network is SEGRESNET else 1]
    found = load(path, network)
    if precision == "fp32":
        assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in found.state_dict().items())
    difference = (logits_of(found) - logits_of(source)).abs().max()
    assert difference <= (0 if precision == "fp32" else HALF * logits_of(source).abs().max())
    assert logits_of(source).std() > 0.1


def test_weights_that_the_exporter_merges_or_drops_are_found_again(tmp_path):
    """It keeps one of equal tensors (fresh norms, a frozen backbone that members share) and no bias of zeros."""
    config = config_of(SEGRESNET)
    first = build_network(config, 2, 2).eval().requires_grad_(False)
    second = spread(build_network(config, 2, 2), 5)
    second.backbone = first.backbone
    members = tuple(Member(f"fold{k}", "segresnet", (), None, f"{k:064x}") for k in range(2))
    pipeline = Pipeline(PARTICLES, VOXEL_A, tiling=Tiling(WINDOW, (4, 4, 4)), members=members)
    merged = ValidatedEnsemble((first, second), pipeline, (config, config))
    for precision in ("fp32", "fp16"):
        path = export_merged(merged, tmp_path / precision / "g.onnx", ExportOptions(precision=precision)).path
        for fold, source in (("fold0", first), ("fold1", second)):
            found, wanted = load(path, SEGRESNET, fold).state_dict(), source.state_dict()
            for name, tensor in wanted.items():
                stored = tensor.half().float() if precision == "fp16" else tensor
                assert torch.equal(found[name], stored), name


def test_the_same_fold_goes_before_the_best_score_and_that_before_the_first(tmp_path):
    path = describe_graph(tmp_path / "g.onnx", (SEGRESNET,) * 3, [0.5, 0.9, 0.7])
    config = config_of(SEGRESNET)
    assert find_pretrained(str(path), config, 2, "fold2").candidate.fold == "fold2"
    assert find_pretrained(str(path), config, 2, "fold7").candidate.fold == "fold1"
    path = describe_graph(tmp_path / "h.onnx", (DYNUNET, SEGRESNET, SEGRESNET))
    assert find_pretrained(str(path), config, 2, "fold0").candidate.fold == "fold1"


def test_a_training_folder_gives_the_member_of_the_same_fold(parent):
    for fold in ("fold0", "fold1"):
        folder = parent / fold / "segresnet"
        member, _ = load_member(folder)
        for given in (parent, folder, folder / "weights.safetensors"):
            found = load(given, SEGRESNET, fold)
            assert torch.equal(logits_of(found), logits_of(member)) or given is not parent
        assert torch.equal(logits_of(load(folder, SEGRESNET, "fold2")), logits_of(member))


def test_weights_that_have_seen_what_a_fold_holds_out_are_passed_over_or_refused(data, tmp_path, parent, fine_tuning):
    config = config_of(SEGRESNET)
    for fold, other in (("fold0", "fold1"), ("fold1", "fold0")):
        held_out = load_record(parent / fold / "segresnet").validation_runs
        assert find_pretrained(str(parent), config, 2, other, held_out).candidate.fold == fold
    seen = load_record(parent / "fold0" / "segresnet").validation_runs
    with pytest.raises(TomopointError, match=f"fold0/segresnet would start from weights that .* {seen[0]}.* holds out"):
        run_train(data, tmp_path / "run", fine_tuning(parent / "fold1" / "segresnet"))
    # The same names in another project are other tomograms.
    shutil.copytree(data, tmp_path / "elsewhere")
    assert run_train(tmp_path / "elsewhere", tmp_path / "run", fine_tuning(parent / "fold1" / "segresnet")).ok


def test_a_model_of_the_box_goes_by_name_and_before_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setattr(box, "box_folder", lambda: tmp_path / "box")
    monkeypatch.chdir(tmp_path)
    _, networks = export_graph(tmp_path / "box" / "tiny.onnx", kinds=(SEGRESNET,))
    assert torch.equal(logits_of(load("tiny", SEGRESNET)), logits_of(networks[0]))
    with pytest.raises(TomopointError, match=r"no model small; give a weights file, .* or one of tiny"):
        find_pretrained("small", config_of(SEGRESNET), 2, "fold0")
    save_file(build_network(config_of(SEGRESNET), 1, 2).state_dict(), tmp_path / "tiny")
    assert torch.equal(logits_of(load("tiny", SEGRESNET)), logits_of(networks[0]))
    assert find_pretrained(str(tmp_path / "tiny"), config_of(SEGRESNET), 2, "fold0").candidate is None


def test_foreign_weights_are_for_the_backbone_alone(tmp_path, caplog):
    source = spread(build_network(config_of(SEGRESNET), 2, 2), 0)
    torch.save(source.state_dict(), tmp_path / "foreign.pt")
    with caplog.at_level(logging.INFO):
        network = load(tmp_path / "foreign.pt", SEGRESNET)
    assert all(torch.equal(t, source.backbone.state_dict()[n]) for n, t in network.backbone.state_dict().items())
    assert network.head.classify[-1].weight.abs().max() == 0
    assert caplog.messages[-1].endswith("backbone tensors; the head starts fresh")


HEATMAP = {"name": "heatmap", "init_filters": 4, "blocks_down": [1, 1, 1], "norm_groups": 2, "class_width": 4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: describe_graph(path, (HEATMAP,)), "name is heatmap there and segresnet here"),
        (
            lambda path: describe_graph(path, ({**SEGRESNET, "init_filters": 8}, DYNUNET)),
            "init_filters is 8 there and 4 here, nor do its 1 other networks. Set the sizes",
        ),
        (lambda path: path.write_text("hello"), "is not an ONNX file"),
        (lambda path: path.write_bytes(b""), "carries no Pipeline"),
        (lambda path: None, "no model .*; give a weights file, a training folder or a graph"),
        (lambda path: path.mkdir(), "holds no finished member"),
    ],
    ids=["heatmap", "other sizes", "text", "not ours", "missing", "empty folder"],
)
def test_what_cannot_be_started_from_is_refused_before_anything_is_read(data, tmp_path, make, message):
    path = tmp_path / "given.onnx"
    make(path)
    recipe = recipe_file(tmp_path, networks=[{**SEGRESNET, "pretrained": str(path)}])
    with pytest.raises(TomopointError, match=message):
        run_train(data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_a_graph_of_an_earlier_version_is_to_be_exported_again(tmp_path):
    path, _ = export_graph(tmp_path / "g.onnx", kinds=(SEGRESNET,))
    graph = onnx.load(path)
    kept = [entry for entry in graph.metadata_props if entry.key != "tomopoint.networks"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    onnx.save(graph, path)
    with pytest.raises(TomopointError, match="does not say which networks it holds; export it again"):
        find_pretrained(str(path), config_of(SEGRESNET), 2, "fold0")


def test_a_graph_with_a_weight_cut_is_refused(tmp_path):
    path, _ = export_graph(tmp_path / "g.onnx", kinds=(SEGRESNET,))
    graph = onnx.load(path)
    weight = next(t for t in graph.graph.initializer if t.name == "networks.0.backbone.convInit.conv.weight")
    weight.raw_data = weight.raw_data[:-4]
    onnx.save(graph, path)
    with pytest.raises(TomopointError, match=r"holds no readable networks\.0\.backbone\.convInit\.conv\.weight"):
        load(path, SEGRESNET)


def test_training_says_what_it_starts_with_and_starts_with_it(data, tmp_path, parent, fine_tuning, caplog):
    """Classes in another order and one that is new; at a rate of about zero the weights stay the parent's."""
    particles = [vars(PARTICLES[1]), {**vars(PARTICLES[0]), "name": "spike"}, vars(PARTICLES[0])]
    recipe = fine_tuning(
        optimiser={"learning_rate": 1e-12}, particles=particles, fit={"epochs": 1, "averaging": "none"}
    )
    with caplog.at_level(logging.INFO):
        assert run_train(data, tmp_path / "run", recipe).ok
    said = [line for line in caplog.messages if line.startswith("pretrained ")]
    assert said == [
        f"pretrained {parent} (fold0/segresnet): backbone 28 of 28 tensors, head for large, small; new: spike"
    ]
    network, record = load_member(tmp_path / "run" / "fold0" / "segresnet")
    old, old_record = load_member(parent / "fold0" / "segresnet")
    assert record.pretrained_sha256 == old_record.weights_sha256
    torch.testing.assert_close(logits_of(network)[:, [2, 0]], logits_of(old)[:, :2], rtol=0, atol=NO_WAY)


NO_WAY = 1e-5
"""Three steps of 1e-12 move no float32 weight of ordinary size; a weight of zero may move by 3e-12."""


@pytest.mark.parametrize("freeze", ["encoder", "backbone"])
@pytest.mark.parametrize("averaging", ["ema", "swa", "none"])
def test_what_is_frozen_does_not_move_while_the_rest_does(data, tmp_path, parent, fine_tuning, freeze, averaging):
    recipe = fine_tuning(optimiser={"freeze": freeze}, fit={"averaging": averaging})
    assert run_train(data, tmp_path / "run", recipe).ok
    before = load_file(parent / "fold0" / "segresnet" / "weights.safetensors")
    after = load_file(tmp_path / "run" / "fold0" / "segresnet" / "weights.safetensors")
    encoder = ("backbone.convInit.", "backbone.down_layers.")
    frozen = {name for name in before if name.startswith(encoder if freeze == "encoder" else "backbone.")}
    assert any(".norm" in name for name in frozen)
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    assert stayed == frozen


def test_what_is_frozen_for_some_steps_moves_from_then_on(data, tmp_path, parent, fine_tuning):
    """Of four steps two are frozen: after one epoch of two nothing of the backbone moved, after two epochs it did."""
    before = load_file(parent / "fold0" / "segresnet" / "weights.safetensors")
    same = {}
    for epochs in (1, 2):
        fit = {"epochs": epochs, "steps_per_epoch": 2, "averaging": "none", "keep_best": 0}
        recipe = fine_tuning(optimiser={"freeze": "backbone", "freeze_steps": 2}, fit=fit)
        assert run_train(data, tmp_path / f"run{epochs}", recipe).ok
        after = load_file(tmp_path / f"run{epochs}" / "fold0" / "segresnet" / "weights.safetensors")
        same[epochs] = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {1: {name for name in before if name.startswith("backbone.")}, 2: set()}


@pytest.mark.parametrize(("freeze_steps", "killed_after"), [(0, 6), (6, 4), (6, 7), (6, 6)])
def test_a_resumed_training_with_frozen_parts_equals_an_uninterrupted_one(
    data, tmp_path, monkeypatch, fine_tuning, freeze_steps, killed_after
):
    optimiser = {"freeze": "backbone", "freeze_steps": freeze_steps, "backbone_rate": 0.5}
    recipe = fine_tuning(optimiser=optimiser, fit={"keep_best": 0})
    run_train(data, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        kill_after(patch, killed_after)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "parts", recipe)
    assert run_train(data, tmp_path / "parts", recipe).ok
    whole, parts = (
        load_file(tmp_path / run / "fold0" / "segresnet" / "weights.safetensors") for run in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_other_bytes_under_the_same_name_are_another_training(data, tmp_path, parent, fine_tuning):
    """Finished or begun, a member belongs to the weights that it started from."""
    shutil.copytree(parent, tmp_path / "parent")
    member = tmp_path / "parent" / "fold0" / "segresnet"
    recipe = fine_tuning(tmp_path / "parent", fit={"epochs": 1})
    assert run_train(data, tmp_path / "run", recipe).ok
    assert run_train(data, tmp_path / "run", recipe).figures["skipped"] == ["fold0/segresnet"]

    other = load_file(parent / "fold1" / "segresnet" / "weights.safetensors")
    save_file(other, member / "weights.safetensors")
    of_this_fold = {
        key: json.loads((member / "member.json").read_text())[key] for key in ("training_runs", "validation_runs")
    }
    others = json.loads((parent / "fold1" / "segresnet" / "member.json").read_text())
    (member / "member.json").write_text(json.dumps({**others, **of_this_fold}))
    with pytest.raises(TomopointError, match="`pretrained` file of fold0/segresnet changed since"):
        run_train(data, tmp_path / "run", recipe)
    # Also where only the record tells: the list of what a folder was made from is gone.
    (tmp_path / "run" / "data.json").unlink()
    with pytest.raises(TomopointError, match="was trained with another file of pretrained weights"):
        run_train(data, tmp_path / "run", recipe)
    record = tmp_path / "run" / "fold0" / "segresnet" / "member.json"
    content = json.loads(record.read_text())
    del content["pretrained_sha256"]  # as earlier versions wrote it
    record.write_text(json.dumps(content))
    (tmp_path / "run" / "data.json").unlink(missing_ok=True)
    assert run_train(data, tmp_path / "run", recipe).figures["skipped"] == ["fold0/segresnet"]
    assert load_record(record.parent).pretrained_sha256 is None


@pytest.mark.parametrize(
    ("optimiser", "pretrained", "message"),
    [
        ({"freeze": "backbone"}, None, "network 'segresnet' starts fresh and would keep random weights"),
        ({"freeze_steps": 10}, "small", "freeze_steps is 10, but freeze is none"),
        ({"freeze": "head"}, "small", "freeze"),
        ({"backbone_rate": 0.0}, "small", "backbone_rate must be positive, got 0"),
        ({"head_rate": -1.0}, "small", "head_rate must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, optimiser, pretrained, message):
    recipe = recipe_file(tmp_path, networks=[{**SEGRESNET, "pretrained": pretrained}], optimiser=optimiser)
    with pytest.raises(TomopointError, match=message):
        load_recipe(recipe)


def test_a_fresh_network_beside_a_pretrained_one_says_that_it_is_not_frozen(tmp_path):
    networks = [{**SEGRESNET, "pretrained": "small"}, {**DYNUNET, "optimiser": {"freeze": "none"}}]
    recipe = load_recipe(recipe_file(tmp_path, networks=networks, optimiser={"freeze": "backbone"}))
    assert [recipe.for_network(index).optimiser.freeze for index in (0, 1)] == ["backbone", "none"]
    assert yaml.safe_load(yaml.safe_dump(recipe.to_dict())) == recipe.to_dict()
    assert "freeze" not in load_recipe("default").to_dict()["optimiser"]


def test_several_processes_do_not_let_go_on_the_way(data, tmp_path, fine_tuning, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = fine_tuning(optimiser={"freeze": "backbone", "freeze_steps": 2})
    with pytest.raises(TomopointError, match="none can begin to after freeze_steps"):
        run_train(data, tmp_path / "run", recipe)
