import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tomopoint.errors import TomopointError
from tomopoint.kaggle.metadata import (
    DatasetMetadata,
    dataset_metadata,
    kernel_metadata,
    load_config,
    slugify,
)

KERNELS = Path(__file__).parents[2] / "kernels"


@pytest.fixture
def config():
    return load_config(KERNELS)


def test_submit_attaches_all_it_needs_and_asks_for_the_t4_without_internet(config):
    metadata = kernel_metadata(config, "submit")
    assert metadata["competition_sources"] == ["czii-cryo-et-object-identification"]
    assert metadata["dataset_sources"] == [dataset_metadata(config).id]
    assert metadata["kernel_sources"] == [kernel_metadata(config, "build_engine")["id"]]
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert (metadata["enable_gpu"], metadata["enable_internet"], metadata["is_private"]) == (True, False, True)
    assert metadata["docker_image_pinning_type"] == "original"


def test_every_title_becomes_its_slug(config):
    for name in config.kernels:
        metadata = kernel_metadata(config, name)
        assert metadata["id"] == f"{config.owner}/{slugify(metadata['title'])}"
        assert (KERNELS / name / metadata["code_file"]).is_file()


@pytest.mark.parametrize(
    ("title", "slug"), [("tomopoint kit", "tomopoint-kit"), ("A, B & C!", "a-b-c"), ("--x  Y2", "x-y2")]
)
def test_slugs_as_kaggle_makes_them(title, slug):
    assert slugify(title) == slug


@pytest.mark.parametrize("length", [5, 51])
def test_dataset_titles_outside_6_to_50_are_refused(config, length):
    with pytest.raises(TomopointError, match="6 to 50"):
        dataset_metadata(replace(config, dataset=replace(config.dataset, title="x" * length)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licenses": []}, "exactly one licence"),
        ({"licenses": [{"name": "other"}, {"name": "CC0-1.0"}]}, "exactly one licence"),
        ({"licenses": [{"name": ""}]}, "exactly one licence"),
        ({"licenses": "other"}, "licenses must be a list, got 'other'"),
        ({"id": "no-owner"}, "owner/slug"),
        ({"id": "Owner/Slug"}, "owner/slug"),
        ({"subtitle": "short"}, "20 to 80"),
    ],
)
def test_dataset_metadata_that_kaggle_refuses(config, tmp_path, change, message):
    path = tmp_path / "dataset-metadata.json"
    path.write_text(json.dumps(asdict(dataset_metadata(config))))
    assert DatasetMetadata.load(path) == dataset_metadata(config)
    path.write_text(json.dumps({**asdict(dataset_metadata(config)), **change}))
    with pytest.raises(TomopointError, match=message):
        DatasetMetadata.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": "short"}, "the notebook submit: title must have 6 to 50 characters, got 5"),
        ({"title": "x" * 51}, "6 to 50"),
        ({"title": "!!!! ab"}, "the slug of '.*/ab' must have 3 to 50 characters, got 2"),
        ({"title": "!!!!!!!"}, "owner/slug"),
        ({"outputs_of": ("other",)}, "no kernel 'other'; it has build_engine, submit"),
    ],
)
def test_notebooks_that_kaggle_refuses(config, change, message):
    kernels = {**config.kernels, "submit": replace(config.kernels["submit"], **change)}
    with pytest.raises(TomopointError, match=message):
        kernel_metadata(replace(config, kernels=kernels), "submit")


def test_an_owner_in_upper_case_is_refused(config):
    with pytest.raises(TomopointError, match="owner/slug in lower case, got 'Owner/tomopoint-build-engine'"):
        replace(config, owner="Owner")


@pytest.mark.parametrize("name", ["NvidiaTeslaP100", "NvidiaTeslaT4Highmem", "nvidiaTeslaT4", "T4", "TpuV5E8", ""])
def test_an_accelerator_that_is_not_offered_is_refused_with_those_that_are(config, name):
    with pytest.raises(
        TomopointError, match=rf"unknown accelerator '{name}'; choose one of NvidiaTeslaT4 \(GPU T4 x2\), "
    ):
        kernel_metadata(replace(config, accelerator=name), "submit")


def test_the_image_is_named_in_both_notebooks_once_it_is_known(config):
    assert config.image == ""
    image = f"gcr.io/kaggle-gpu-images/python@sha256:{'0123456789abcdef' * 4}"
    for name in config.kernels:
        assert "docker_image" not in kernel_metadata(config, name)
        pinned = kernel_metadata(replace(config, image=image), name)
        assert (pinned["docker_image"], pinned["docker_image_pinning_type"]) == (image, "original")
    for wrong in ("gcr.io/kaggle-gpu-images/python:v170", image[:-1], "sha256:" + "0" * 64):
        with pytest.raises(TomopointError, match="named by its digest"):
            kernel_metadata(replace(config, image=wrong), "submit")


def test_a_key_too_many_in_kernels_toml_is_named(tmp_path):
    path = tmp_path / "kernels.toml"
    path.write_text((KERNELS / "kernels.toml").read_text().replace("owner =", "onwer ="))
    with pytest.raises(TomopointError, match="onwer"):
        load_config(tmp_path)
