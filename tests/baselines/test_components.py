"""The segmenter of slices: what it is asked; connected components over slices: centroids, size filter, scores."""

import math

import numpy as np
import pytest
import torch

from tomopoint.baselines.recipe import SegmenterOptions
from tomopoint.baselines.segmenter import SliceSegmentation, join_components
from tomopoint.training.crops.dataset import CropBatch
from tomopoint.training.losses.points import collate


def volume_with(spheres, shape=(30, 40, 40)):
    grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"), axis=-1)
    volume = np.zeros((2, *shape), dtype=np.float16)
    for centre, radius, label, value in spheres:
        volume[label][np.linalg.norm(grid - centre, axis=-1) < radius] = value
    return volume


def test_spheres_come_back_at_their_centroids_and_specks_do_not():
    spheres = [((10, 12, 14), 4.0, 0, 0.75), ((20, 30, 20), 4.0, 0, 0.5), ((15, 15, 30), 6.0, 1, 1.0)]
    found = join_components(volume_with([*spheres, ((5, 35, 5), 1.2, 0, 1.0)]), SegmenterOptions(), [4.0, 6.0])
    np.testing.assert_allclose(found.points_zyx_vox, [centre for centre, *_ in spheres], atol=1e-6)
    assert found.labels.tolist() == [0, 0, 1]
    n = np.count_nonzero(volume_with(spheres[:1]))
    full = 1 - math.exp(-n / (0.25 * 4 / 3 * math.pi * 64))
    assert found.scores[:2] == pytest.approx([0.75 * full, 0.5 * full], rel=1e-3)


def test_voxels_below_the_level_join_nothing():
    spheres = [((15, 12, 12), 4.0, 0, 0.29), ((15, 28, 28), 4.0, 1, 0.31)]
    found = join_components(volume_with(spheres), SegmenterOptions(), [4.0, 4.0])
    assert found.labels.tolist() == [1]
    assert len(join_components(volume_with([]), SegmenterOptions(), [4.0, 4.0]).labels) == 0


def test_the_loss_weighs_voxels_by_their_true_class():
    torch.manual_seed(0)
    method = SliceSegmentation(SegmenterOptions(channels=(4, 8), particle_weight=3.0), 3, [4.0, 2.0])
    points = collate([(torch.tensor([[1.5, 8.0, 8.0]]), torch.tensor([1]), 1.0)])
    network = method.build().eval()
    batch = CropBatch(torch.randn(1, 1, 3, 16, 16), points, ("here",))
    probabilities = network(batch.volume[:, 0]).softmax(dim=1)[0].detach()
    total = weight = 0.0
    for y in range(16):
        for x in range(16):
            inside = (y + 0.5 - 8) ** 2 + (x + 0.5 - 8) ** 2 < 4
            own = 3.0 if inside else 1.0
            total -= own * math.log(float(probabilities[2 if inside else 0, y, x]))
            weight += own
    assert float(method.losses(network, batch)["classification"].detach()) == pytest.approx(total / weight, rel=1e-4)
