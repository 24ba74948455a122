"""Placement against statistics of seven real runs (1269 labels, boxes of 184 x 630 x 630 voxels)."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tomopoint.simulate.labels import imperfect_labels
from tomopoint.simulate.options import (
    FULL_SHAPE_ZYX,
    NO_VARIETY,
    PERFECT_LABELS,
    VOXEL_A,
    LabelImperfections,
    SimulationOptions,
)
from tomopoint.simulate.particles.catalogue import competition_particles
from tomopoint.simulate.placement import CONTACT_A, UNLABELLED, draw_count
from tomopoint.simulate.scene import Scene, draw_scene
from tomopoint.simulate.statistics import COMPETITION_STATISTICS

REAL_TOLERANCE = 0.20
"""Medians over simulated runs against the real figures; the real ones come from seven runs only."""

N_RUNS = 40
NO_CROWD = SimulationOptions(crowding=0.0, variety=NO_VARIETY)
"""Small proteins touch no statistic here and cost time."""

MEAN_COUNTS = {
    "apo-ferritin": 53.6,
    "beta-amylase": 12.4,
    "beta-galactosidase": 16.0,
    "ribosome": 47.3,
    "thyroglobulin": 35.9,
    "virus-like-particle": 16.1,
}
NEIGHBOUR_A = {  # same kind, median of the nearest neighbour's distance
    "apo-ferritin": 130,
    "beta-amylase": 859,
    "beta-galactosidase": 761,
    "ribosome": 300,
    "thyroglobulin": 589,
    "virus-like-particle": 783,
}
HEIGHT_A = {  # mean, 5 % and 95 % quantile of z
    "apo-ferritin": (627, 150, 1218),
    "beta-amylase": (802, 252, 1250),
    "beta-galactosidase": (774, 355, 1150),
    "ribosome": (894, 321, 1277),
    "thyroglobulin": (781, 309, 1220),
    "virus-like-particle": (764, 376, 1093),
}
EXTENT_XYZ_A = np.array(FULL_SHAPE_ZYX[::-1]) * VOXEL_A


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [
        draw_scene(np.random.default_rng(seed), NO_CROWD, FULL_SHAPE_ZYX, competition_particles())
        for seed in range(N_RUNS)
    ]


@pytest.fixture(scope="module")
def labels(scenes: list[Scene]) -> list[dict[str, np.ndarray]]:
    return [
        imperfect_labels(scene.points_xyz_A(), LabelImperfections(), EXTENT_XYZ_A, np.random.default_rng(seed))
        for seed, scene in enumerate(scenes)
    ]


@pytest.mark.parametrize("name", MEAN_COUNTS)
def test_counts(labels: list[dict[str, np.ndarray]], name: str) -> None:
    assert np.mean([len(run[name]) for run in labels]) == pytest.approx(MEAN_COUNTS[name], rel=REAL_TOLERANCE)


@pytest.mark.parametrize("name", MEAN_COUNTS)
def test_drawn_counts_have_mean_and_spread_of_the_real_ones(name: str) -> None:
    rng = np.random.default_rng(0)
    statistics = COMPETITION_STATISTICS[name]
    counts = [draw_count(rng, statistics, 1.0) for _ in range(4000)]
    assert np.mean(counts) == pytest.approx(statistics.mean, rel=0.05)
    assert np.std(counts) == pytest.approx(statistics.spread, rel=0.10)


@pytest.mark.parametrize("name", MEAN_COUNTS)
def test_nearest_neighbours(labels: list[dict[str, np.ndarray]], name: str) -> None:
    distances = [cKDTree(run[name]).query(run[name], k=2)[0][:, 1] for run in labels if len(run[name]) > 1]
    assert np.median(np.concatenate(distances)) == pytest.approx(NEIGHBOUR_A[name], rel=REAL_TOLERANCE)


@pytest.mark.parametrize("name", MEAN_COUNTS)
def test_heights(labels: list[dict[str, np.ndarray]], name: str) -> None:
    z = np.concatenate([run[name][:, 2] for run in labels])
    mean, low, high = HEIGHT_A[name]
    assert z.mean() == pytest.approx(mean, rel=REAL_TOLERANCE)
    # The quantiles lie near 0, so their error is measured against the ice they lie in (0.2 of 950 A).
    assert np.quantile(z, [0.05, 0.95]) == pytest.approx([low, high], abs=REAL_TOLERANCE * 950)


def test_the_top_of_a_tomogram_is_empty(scenes: list[Scene]) -> None:
    highest = max(points[:, 2].max() for scene in scenes for points in scene.points_xyz_A().values() if len(points))
    assert highest <= 1560.0


@pytest.mark.parametrize(("name", "link_A", "alone"), [("apo-ferritin", 160.0, 0.39), ("ribosome", 350.0, 0.27)])
def test_clusters(labels: list[dict[str, np.ndarray]], name: str, link_A: float, alone: float) -> None:
    single = np.concatenate(
        [cKDTree(run[name]).query(run[name], k=2)[0][:, 1] > link_A for run in labels if len(run[name]) > 1]
    )
    assert single.mean() == pytest.approx(alone, abs=0.1)


def test_nothing_overlaps(scenes: list[Scene]) -> None:
    for scene in scenes[:5]:
        positions = [m.blobs.positions_zyx_A + m.centre_zyx_A for m in scene.molecules]
        owners = np.repeat(np.arange(len(positions)), [len(p) for p in positions])
        pairs = cKDTree(np.concatenate(positions)).query_pairs(CONTACT_A * 0.999, output_type="ndarray")
        assert (owners[pairs[:, 0]] == owners[pairs[:, 1]]).all()


def test_unlabelled_complexes_are_there_and_not_in_the_truth() -> None:
    shape = (184, 315, 315)
    nominal = SimulationOptions(crowding=1.0, variety=NO_VARIETY)
    scenes = [draw_scene(np.random.default_rng(seed), nominal, shape, competition_particles()) for seed in range(8)]
    unlabelled = [sum(m.name == UNLABELLED for m in scene.molecules) for scene in scenes]
    # 82 in a full-size run, here a quarter of its area; the margins count for more in a smaller box.
    assert 12 <= np.mean(unlabelled) <= 25
    for scene in scenes:
        assert sum(map(len, scene.points_xyz_A().values())) == len(scene.molecules) - sum(
            m.name == UNLABELLED for m in scene.molecules
        )


def test_small_boxes_hold_the_real_density_and_every_particle_inside() -> None:
    """A shallow box is cut out of the ice's middle, so its density is at least the real mean over the ice."""
    shape = (64, 160, 160)
    scenes = [draw_scene(np.random.default_rng(seed), NO_CROWD, shape, competition_particles()) for seed in range(150)]
    extent = np.array(shape[::-1]) * VOXEL_A
    points = [np.concatenate(list(scene.points_xyz_A().values())) for scene in scenes]
    assert all((run >= 0).all() and (run <= extent).all() for run in points)
    margin = 2 * 80.0
    area = (extent[0] - margin) * (extent[1] - margin)
    real_per_area = sum(MEAN_COUNTS.values()) / (EXTENT_XYZ_A[0] - margin) ** 2
    share = np.mean([len(run) for run in points]) / (real_per_area * area)
    # 640 A of about 1090 A of ice, particles gathering towards its middle a little: a share of 0.5 to 0.8.
    assert 0.5 < share < 0.8


def test_real_density_of_small_proteins() -> None:
    shape = (96, 128, 128)
    options = SimulationOptions(variety=NO_VARIETY)
    counts = [
        len(draw_scene(np.random.default_rng(seed), options, shape, competition_particles()).crowd) for seed in range(6)
    ]
    box_A3 = np.prod(np.array(shape) * VOXEL_A)
    volume_share = np.mean(counts) * 88_000 / box_A3
    # Some fall outside (a rim is drawn too), some where others lie already; nearly the whole box is ice.
    assert 0.006 < volume_share < 0.016


def test_same_seed_same_scene() -> None:
    first, second = (
        draw_scene(np.random.default_rng(7), NO_CROWD, (64, 200, 200), competition_particles()) for _ in range(2)
    )
    for name, points in first.points_xyz_A().items():
        np.testing.assert_array_equal(points, second.points_xyz_A()[name])


class TestLabels:
    def setup_method(self) -> None:
        rng = np.random.default_rng(1)
        self.truth = {name: rng.uniform(500, 1300, (2000, 3)) for name in MEAN_COUNTS}

    def labelled(self, imperfections: LabelImperfections) -> dict[str, np.ndarray]:
        return imperfect_labels(self.truth, imperfections, np.full(3, 1842.0), np.random.default_rng(2))

    def test_perfect_labels_are_the_truth(self) -> None:
        for name, points in self.labelled(PERFECT_LABELS).items():
            np.testing.assert_array_equal(points, self.truth[name])

    def test_jitter_per_axis(self) -> None:
        only_jitter = LabelImperfections(missing=0.0, jitter_A=6.0, conflicting=0.0, double=0.0)
        moved = self.labelled(only_jitter)["ribosome"] - self.truth["ribosome"]
        assert moved.std() == pytest.approx(6.0, rel=0.05)

    def test_only_the_hard_kinds_are_missed(self) -> None:
        missed = self.labelled(LabelImperfections(missing=0.1, jitter_A=0.0, conflicting=0.0, double=0.0))
        for name, points in missed.items():
            expected = 1800 if name in ("beta-galactosidase", "thyroglobulin") else 2000
            assert len(points) == pytest.approx(expected, abs=5 * np.sqrt(2000 * 0.09))
        assert len(missed["ribosome"]) == 2000

    def test_conflicting_and_double_labels_add_points_nearby(self) -> None:
        extra = self.labelled(LabelImperfections(missing=0.0, jitter_A=0.0, conflicting=0.2, double=0.1))
        n_conflicting = len(extra["thyroglobulin"]) + len(extra["beta-amylase"]) - 4000
        assert n_conflicting == pytest.approx(400, abs=90)
        added = extra["beta-amylase"][2000:]
        distances = cKDTree(self.truth["beta-galactosidase"]).query(added)[0]
        assert distances.max() <= 41.0 + 1e-9
        assert len(extra["apo-ferritin"]) == pytest.approx(2200, abs=70)
