"""Particles just outside a crop are neither found nor background."""

import math

import numpy as np
import pytest
import torch
from training_data import make_run

from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.heatmap import HeatmapLoss
from tomopoint.training.losses.points import FIRST_BORDER_LABEL, collate
from tomopoint.training.options.crops import CropOptions

RADII = (6.0, 10.0)
MAP = (8, 8, 8)


def gradient(loss_class, centres, labels):
    """Return the gradient with respect to the logits; logits of -1 make every cell's background loss felt."""
    logits = torch.full((1, 2, *MAP), -1.0, requires_grad=True)
    offsets = torch.zeros(1, 3, *MAP, requires_grad=True)
    points = collate([(torch.tensor(centres).reshape(-1, 3), torch.tensor(labels), 1.0)])
    loss_class(RADII, 2)(logits, offsets, points).total.backward()
    return logits.grad[0]


def test_cells_near_a_particle_outside_have_no_background_loss():
    outside = [-1.0, 8.0, 8.0]
    found = gradient(DetectionLoss, [outside], [FIRST_BORDER_LABEL - 1])
    axis = (np.arange(8) + 0.5) * 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    near = (z + 1) ** 2 + (y - 8) ** 2 + (x - 8) ** 2 <= (0.5 * RADII[1]) ** 2
    assert near.sum() > 10
    assert np.array_equal(found[1].numpy() == 0, near)
    assert (found[0] != 0).all()


def test_a_cell_that_answers_for_a_particle_inside_keeps_its_loss():
    inside = gradient(DetectionLoss, [[1.0, 9.0, 9.0]], [1])
    both = gradient(DetectionLoss, [[1.0, 9.0, 9.0], [-1.0, 9.0, 9.0]], [1, FIRST_BORDER_LABEL - 1])
    positive = inside[1] < 0
    assert positive.sum() == 13
    assert torch.equal(both[1][positive], inside[1][positive])
    assert (both[1] == 0).any()


def test_a_heatmap_s_peak_beyond_the_crop_reaches_into_it_and_has_no_cell_there():
    """Centred half a cell outside, of standard deviation 0.35 * 6 voxels: the first cell is one cell from its peak."""
    logits = torch.zeros(1, 2, *MAP, requires_grad=True)
    listed = collate([(torch.tensor([[-1.0, 9.0, 9.0]]), torch.tensor([FIRST_BORDER_LABEL]), 1.0)])
    terms = HeatmapLoss(RADII, 2)(logits, torch.zeros(1, 3, *MAP), listed)
    terms.total.backward()
    assert terms.n_positive == 0
    reduced = float(logits.grad[0, 0, 0, 4, 4] / logits.grad[0, 0, 7, 0, 0])
    assert reduced == pytest.approx((1 - math.exp(-4 / (2 * (0.35 * 6) ** 2))) ** 4, rel=1e-5)


def test_dataset_lists_particles_within_half_a_radius_outside():
    run = make_run(shape=(40, 40, 40), n_particles=3)
    run.centres_zyx[:] = [[20, 20, 20], [20, 20, 30.5], [20, 20, 34.0]]
    run.labels[:] = [0, 1, 1]
    options = CropOptions((20, 20, 20), centred_fraction=1, jitter=0)
    for radii, expected in ((None, [0]), ((4.0, 4.0), [0, FIRST_BORDER_LABEL - 1]), ((4.0, 0.5), [0])):
        dataset = CropDataset([run], options, NO_AUGMENTATION, 0, radii_vox=radii)
        crops = [dataset[0, position] for position in range(30)]
        centred = [crop for crop in crops if crop.origin.endswith("20.0, 20.0, 20.0 voxels")]
        assert centred
        assert centred[0].labels.tolist() == expected
    assert centred[0].centres_zyx == pytest.approx(np.full((1, 3), 10.0))
