"""The mean of several computations of a volume: by several networks, or of its mirror image too.

Use `MeanNetwork` in place of one network. It averages probabilities, voxel by voxel, so decisions,
recognition and the out-of-distribution check work on it as on any network. The paper does neither;
both are off by default.

Reference: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using
deep ensembles", NeurIPS 2017, section 2.4, for the mean over networks. Flips at test time are usual
in the field; that only left and right are exchanged here is this project's choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.tiling import Plan, Tile
from mtseg.tasks.task import Task


class Network(Protocol):
    """A network that computes the tiles of a volume, on this machine or on a server.

    The methods are those of `mtseg.inference.dense.DenseNetwork`.
    """

    @property
    def num_classes(self) -> int:
        """Number of combined classes, including background."""

    @property
    def engine(self) -> str:
        """What computes: one of `mtseg.inference.engines.choice.ENGINES`, or `server`."""

    @property
    def precision(self) -> str:
        """One of `mtseg.inference.engines.choice.PRECISIONS`."""

    def plan(
        self, volume: npt.NDArray[np.float32], memory_bytes: float | None = None, **how: Any
    ) -> Plan:
        """Divides a volume into tiles that fit into memory."""

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Computes the tiles of a plan, in its order."""


@dataclasses.dataclass(frozen=True)
class MeanNetwork:
    """The mean of the probabilities of one or several networks.

    Attributes:
        members: networks of the same classes, on one engine.
        is_mirrored: whether each also computes the volume with left and right exchanged. Its
            probabilities are mirrored back before they are averaged.
    """

    members: tuple[Network, ...]
    is_mirrored: bool = False

    @property
    def num_classes(self) -> int:
        """Number of combined classes, including background."""
        return self.members[0].num_classes

    @property
    def engine(self) -> str:
        """What computes."""
        return self.members[0].engine

    @property
    def precision(self) -> str:
        """Precision of the convolutions."""
        return self.members[0].precision

    @property
    def num_passes(self) -> int:
        """How many times a volume is computed."""
        return len(self.members) * (1 + self.is_mirrored)

    def plan(
        self, volume: npt.NDArray[np.float32], memory_bytes: float | None = None, **how: Any
    ) -> Plan:
        """Divides a volume into tiles that fit into memory beside the sum of earlier passes.

        Arguments and errors are those of `mtseg.inference.dense.DenseNetwork.plan`.

        Returns:
            The plan, with the operations of all passes.
        """
        network = self.members[0]
        plan = network.plan(volume, memory_bytes, **how)
        kept_bytes = max(
            (4 * self.num_classes * int(np.count_nonzero(volume[t.computed])) for t in plan.tiles),
            default=0,
        )
        if memory_bytes is not None:
            plan = network.plan(volume, memory_bytes - kept_bytes, **how)
        tiles = tuple(
            dataclasses.replace(tile, flop=self.num_passes * tile.flop) for tile in plan.tiles
        )
        return Plan(tiles, plan.tile_bytes + kept_bytes)

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Computes the tiles of a plan, each by all passes; see `DenseNetwork.run_all`.

        Args:
            volume: float32 (I, J, K), RAS+, the one that the plan was made for.
            plan: its tiles.
        """
        passes = [network.run_all(volume, plan) for network in self.members]
        if self.is_mirrored:
            mirrored, mirrored_plan = volume[::-1], _mirror_plan(plan, len(volume))
            passes += [
                _mirror_back(network.run_all(mirrored, mirrored_plan), mirrored)
                for network in self.members
            ]
        for tile in plan.tiles:
            mean = np.zeros((), np.float32)
            for of_pass in passes:
                mean = mean + next(of_pass)[1]
            yield tile, mean / np.float32(len(passes))

    def with_smaller_chunks(self) -> MeanNetwork:
        """The same mean, with fewer voxels passing the convolutions at once."""
        members = tuple(
            each.with_smaller_chunks() if isinstance(each, DenseNetwork | MeanNetwork) else each
            for each in self.members
        )
        return dataclasses.replace(self, members=members)


def _mirror(part: slice, size: int) -> slice:
    """A range of an axis of so many voxels, seen from the other end."""
    return slice(size - part.stop, size - part.start)


def _mirror_plan(plan: Plan, size: int) -> Plan:
    """The same tiles in a volume whose first axis, of so many voxels, is reversed."""
    tiles = [
        dataclasses.replace(
            tile,
            core=(_mirror(tile.core[0], size), *tile.core[1:]),
            computed=(_mirror(tile.computed[0], size), *tile.computed[1:]),
        )
        for tile in plan.tiles
    ]
    return dataclasses.replace(plan, tiles=tuple(tiles))


def _mirror_back(
    computed: Iterator[tuple[Tile, npt.NDArray[np.float32]]], mirrored: npt.NDArray[np.float32]
) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
    """Puts the rows of a mirrored volume's tiles into the order of the volume itself."""
    for tile, rows in computed:
        is_foreground = mirrored[tile.computed] != 0
        number = np.zeros(is_foreground.shape, np.int64)
        number[is_foreground] = np.arange(len(rows))
        yield tile, rows[number[::-1][is_foreground[::-1]]]


def require_symmetric(tasks: Sequence[Task], given_task: str | None = None) -> None:
    """Refuses `--tta flip` where left and right must not be exchanged.

    The task of a scan is not known before it is computed, so every task that it may be for must
    allow it.

    Args:
        tasks: of the network.
        given_task: name of the task that the scans are for; None if it is not given.

    Raises:
        InputError: if a task does not allow it.
    """
    wanted = [task for task in tasks if given_task in (None, task.name)]
    one_sided = [task.name for task in wanted if not task.is_symmetric]
    if not one_sided:
        return
    allowed = [task.name for task in wanted if task.is_symmetric]
    choice = f"Give --task {' or '.join(allowed)}, or leave it out." if allowed else "Leave it out."
    raise InputError(
        f"--tta flip: {', '.join(one_sided)} {'does' if len(one_sided) == 1 else 'do'} not allow "
        "left and right to be exchanged (is_symmetric in the task file; models of earlier versions "
        f"do not know it). {choice}"
    )
