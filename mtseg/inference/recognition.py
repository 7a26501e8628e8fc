"""At which voxel size to segment a scan: recognising its task from a few blocks of voxels.

A network learns each task at that task's voxel size, and finds little at another. The task of a
scan is unknown, so small blocks at random places of the foreground are computed at every voxel size
that the network's tasks ask for; of a small scan, all of it. The size is chosen whose voxels look
most like the reference scans of its task. The rest of the network, and the choice of classes, are
not told what was recognised.

The paper evaluates each task at its own voxel size and does not treat this question; the rule is
this project's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtseg.inference.tiling import Block, Plan, Tile, bounding_box
from mtseg.inference.verdict import (
    LIKE_TRAINED,
    OutOfDistributionCheck,
    ScanStatistics,
    scan_features,
)
from mtseg.network.architecture import HALO
from mtseg.tasks.task import Task

NUM_BLOCKS = 32
"""Blocks of voxels that are computed at each voxel size."""

BLOCK_EDGE = 6
"""Edge of a block in voxels. The convolutions of its voxels are shared, so a block costs little
more than its middle voxel, but its voxels resemble each other."""

_INDEPENDENT_VOXELS = 3
"""As how many independent voxels the 216 of a block count when shares are compared."""

_OWN_SIZE_LIMIT = 0.15
"""How far, relative to the typical voxel size of a task's reference scans, that of a scan may be
for the scan to be computed at its own. On breast phantoms a scan of 0.78 times the size lost 0.028
of Dice at its own and 0.005 when it was resampled."""

_LARGEST_DEVIATION = 4.0
"""Deviations beyond this count alike: one structure that is out of view must not decide."""


class TileNetwork(Protocol):
    """A network that computes tiles, such as `mtseg.inference.dense.DenseNetwork`."""

    @property
    def num_classes(self) -> int:
        """Number of combined classes, including background."""

    def plan(self, volume: npt.NDArray[np.float32], memory_bytes: float | None = None) -> Plan:
        """Divides a volume into tiles that fit into memory or into the messages of a server."""

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Computes the tiles of a plan, in its order."""


@dataclasses.dataclass(frozen=True)
class Recognition:
    """The voxel size to segment a scan at.

    Attributes:
        spacing_mm: isotropic voxel size; None is the scan's finest.
        tasks: the tasks that ask for it; empty if it was given by the user.
        reason: why, in words.
    """

    spacing_mm: float | None
    tasks: tuple[str, ...]
    reason: str


def candidate_spacings(
    tasks: Sequence[Task],
    scan_spacing_mm: tuple[float, float, float],
    is_ct: bool,
    trained_mm: Mapping[str, float] | None = None,
) -> dict[float, tuple[str, ...]]:
    """The voxel sizes at which a scan may be segmented.

    Args:
        tasks: the network's tasks.
        scan_spacing_mm: the scan's voxel size along its axes.
        is_ct: whether its intensities are Hounsfield units.
        trained_mm: name of a task -> typical voxel size of its reference scans. A task that works
            at a scan's own in-plane size was trained at such sizes only. A scan of another size is
            resampled to the typical one. Where another task asks for the scan's size, a difference
            up to `LIKE_TRAINED` is taken: then a brain of 1 mm is segmented without comparing voxel
            sizes first.

    Returns:
        Isotropic voxel size in mm -> names of the tasks that ask for it. Tasks of another modality
        are left out, unless the network has no other.
    """
    alike = [task for task in tasks if task.is_ct in (None, is_ct)] or list(tasks)
    fixed = [task.spacing_mm for task in alike if task.spacing_mm is not None]
    found: dict[float, tuple[str, ...]] = {}
    for task in alike:
        own = task.target_spacing_mm(scan_spacing_mm)
        typical = (trained_mm or {}).get(task.name, own)
        limit = LIKE_TRAINED if _find_same(own, fixed) else _OWN_SIZE_LIMIT
        wanted = own if abs(typical - own) <= limit * typical else typical
        same = _find_same(wanted, found) or wanted
        found[same] = (*found.get(same, ()), task.name)
    return found


def _find_same(size_mm: float, sizes_mm: Iterable[float]) -> float | None:
    """The first of some voxel sizes that differs by no more than a rounding error of a header."""
    return next((mm for mm in sizes_mm if abs(mm - size_mm) < 0.005 * mm), None)


def plan_blocks(network: TileNetwork, volume: npt.NDArray[np.float32], seed: int = 0) -> Plan:
    """Blocks at random places of a volume's foreground, or all of it where that takes no longer.

    Args:
        network: what will compute them.
        volume: float32 (I, J, K), prepared; its foreground is not 0.
        seed: seed of the places.

    Returns:
        A plan of small tiles; they may overlap. Blocks at the border are cut there. A volume
        without foreground has none.

    Raises:
        InputError: if no block fits into a message of the server.
    """
    box = bounding_box(volume != 0)
    if box is None:
        return Plan((), 0)
    of_blocks = NUM_BLOCKS * _count_positions([BLOCK_EDGE] * 3)
    if _count_positions([part.stop - part.start for part in box]) <= of_blocks:
        return network.plan(volume, math.inf)
    # A message that is too small for a block is refused here, with the remedy.
    network.plan(np.ones([BLOCK_EDGE] * 3, np.float32), math.inf)
    foreground = np.flatnonzero(volume)
    rng = np.random.default_rng(seed)
    chosen = foreground[rng.integers(0, foreground.size, NUM_BLOCKS)]
    tiles = []
    for centre in zip(*np.unravel_index(chosen, volume.shape), strict=True):
        i, j, k = (
            slice(max(int(c) - BLOCK_EDGE // 2, 0), min(int(c) + BLOCK_EDGE // 2, size))
            for c, size in zip(centre, volume.shape, strict=True)
        )
        block: Block = (i, j, k)
        tiles.append(Tile(block, block, 0))
    return Plan(tuple(tiles), 0)


def _count_positions(shape: Sequence[int]) -> int:
    """Pixels that the convolutions of a tile compute in its three planes, with their halo."""
    i, j, k = shape
    beyond_i, beyond_j, beyond_k = (n + 2 * HALO for n in shape)
    return i * beyond_j * beyond_k + beyond_i * j * beyond_k + beyond_i * beyond_j * k


def sample_statistics(
    network: TileNetwork, volume: npt.NDArray[np.float32], seed: int = 0
) -> ScanStatistics:
    """What the network says of the voxels of `plan_blocks` of a prepared volume."""
    statistics = ScanStatistics(network.num_classes)
    for _, rows in network.run_all(volume, plan_blocks(network, volume, seed)):
        statistics.add(rows)
    return statistics


def mismatch(
    statistics: ScanStatistics,
    class_task: Sequence[str | None],
    task: str,
    check: OutOfDistributionCheck | None,
) -> float:
    """How little sampled voxels look like a scan of a task; smaller is better.

    With a calibrated network it is the mean deviation of the features of
    `mtseg.inference.verdict.scan_features` from those of the task's reference scans, in units of
    their standard deviation and that of sampling few voxels. Otherwise it is 1 less the share of
    voxels that get a class of the task, plus the share that get a class of another.

    Args:
        statistics: of the sampled voxels.
        class_task: the task of each combined class; None for background.
        task: name of the task.
        check: what the network knows of its reference scans; None if it was not calibrated.
    """
    shares = statistics.shares
    of_task = np.array([name == task for name in class_task])
    of_others = np.array([name not in (None, task) for name in class_task])
    if check is None or task not in check.tasks:
        return float(1 - shares[of_task].sum() + shares[of_others].sum())
    reference = check.tasks[task].features
    features = scan_features(statistics, class_task, task)
    names = [name for name in reference if name in features]
    means, standard_deviations = np.array([reference[name] for name in names]).T
    count = max(statistics.num_voxels.sum() / BLOCK_EDGE**3 * _INDEPENDENT_VOXELS, 1)
    expected = 10.0**means
    # The logarithm to base 10 of a share p in n voxels has the variance (1 - p) / (p n ln(10)^2).
    sampling = (1 - expected) / (expected * count) / np.log(10) ** 2
    variance = np.square(standard_deviations) + np.maximum(sampling, 0)
    deviations = np.abs([features[name] for name in names] - means) / np.sqrt(variance)
    return float(np.minimum(deviations, _LARGEST_DEVIATION).mean())


def choose_spacing(
    mismatches: Mapping[float, Mapping[str, float]],
) -> Recognition:
    """Chooses the voxel size whose best task has the smallest mismatch.

    Args:
        mismatches: voxel size in mm -> name of a task that asks for it -> its mismatch.
    """
    best = min(mismatches, key=lambda mm: min(mismatches[mm].values()))
    task = min(mismatches[best], key=lambda name: mismatches[best][name])
    others = " and ".join(
        f"at {mm:.3g} mm ({min(of_tasks.values()):.2f})"
        for mm, of_tasks in mismatches.items()
        if mm != best
    )
    return Recognition(
        best,
        tuple(mismatches[best]),
        f"segmented at {best:.3g} mm, the voxel size of {task}: sampled voxels look more like its "
        f"reference scans (mismatch {mismatches[best][task]:.2f}) than {others}",
    )
