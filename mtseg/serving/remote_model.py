"""A model on a server, with the same interface as a model on this machine.

A volume is divided into tiles that fit a message; a few requests are under way at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.inference.dense import with_halo
from mtseg.inference.tiling import Message, Plan, Tile, plan_tiles
from mtseg.models.loading import ExportedModel, make_exported
from mtseg.models.manifest import MANIFEST_SCHEMA, check_manifest
from mtseg.models.signatures import DESCRIBE, tile_signature
from mtseg.network.model import HALO
from mtseg.serving.address import Address, ServerOptions, parse_address
from mtseg.serving.connection import Connection, ServerError
from mtseg.serving.grpc import GrpcConnection
from mtseg.serving.rest import RestConnection


def connect(address: Address, options: ServerOptions) -> Connection:
    """Makes a connection; nothing is sent yet.

    Raises:
        InputError: if what it needs is not installed, or the certificates cannot be read.
    """
    return (RestConnection if address.is_rest else GrpcConnection)(address, options)


_MEMORY_BYTES = 1e9
"""What the client's own part may take, if nobody says otherwise."""


_JSON_VALUE_BYTES, _JSON_LABEL_BYTES = 22, 3
"""Of a number with all its digits and of a label, written as text with what stands between."""


MOST_JSON_BYTES = 500_000_000
"""A scan that takes more than this as text is refused: gRPC carries it in a fifth of the bytes."""


@dataclasses.dataclass(frozen=True)
class ServedNetwork:
    """A network that a server computes, with the methods of `mtseg.inference.dense.DenseNetwork`.

    Attributes:
        connection: to the server.
        version: of the model, the same for all tiles of a scan.
        num_classes: its classes.
        precision: in which its convolutions run.
    """

    connection: Connection
    version: int | None
    num_classes: int
    precision: str

    def plan(self, volume: np.ndarray, memory_bytes: float | None = None, **how: Any) -> Plan:
        """`mtseg.inference.tiling.plan_tiles` for the server's messages.

        Args:
            volume: float32 (I, J, K), intensities as prepared, exactly 0 outside the foreground.
            memory_bytes: what the client may take; None is 1 GB.
            how: as for `plan_tiles`.

        Raises:
            InputError: if no tile fits a message, or the scan is too large to be sent as text.
        """
        options, is_rest = self.connection.options, self.connection.address.is_rest
        message = Message(
            options.message_bytes,
            value_bytes=_JSON_VALUE_BYTES if is_rest else 4,
            label_bytes=_JSON_LABEL_BYTES if is_rest else 0,
            in_flight=options.in_flight,
        )
        plan = plan_tiles(
            volume,
            self.num_classes,
            self.precision,
            _MEMORY_BYTES if memory_bytes is None else memory_bytes,
            message=message,
            **how,
        )
        if is_rest:
            self._refuse_large(volume, plan)
        return plan

    def _refuse_large(self, volume: np.ndarray, plan: Plan) -> None:
        blocks = [
            math.prod(part.stop - part.start + 2 * HALO for part in tile.computed)
            for tile in plan.tiles
        ]
        answers = [np.count_nonzero(volume[tile.computed]) for tile in plan.tiles]
        num_bytes = _JSON_VALUE_BYTES * (sum(blocks) + self.num_classes * sum(answers))
        if num_bytes > MOST_JSON_BYTES:
            address = dataclasses.replace(self.connection.address, scheme="grpc", port=8500)
            raise InputError(
                f"is about {num_bytes / 1e6:.0f} MB of text in {len(plan.tiles)} requests over "
                f"HTTP, where {MOST_JSON_BYTES / 1e6:.0f} MB are taken. Use gRPC, by default "
                f"{address}."
            )

    def run(self, volume: np.ndarray, tile: Tile) -> np.ndarray:
        """Has the server compute a tile.

        Args:
            volume: float32 (I, J, K), RAS+, as the plan was made for.
            tile: one of the plan's.

        Returns:
            The probabilities of the foreground voxels of `tile.computed`, float32 (voxels,
            num_classes), in C order.

        Raises:
            ServerError: if the server does not give them.
        """
        answer = self.connection.predict(
            tile_signature(self.precision),
            {
                "tile": with_halo(volume, tile)[np.newaxis],
                "intensity_scale": np.ones(1, np.float32),
                "chunk_positions": np.zeros(1, np.int32),
            },
            ("probabilities",),
            self.version,
        )
        rows = answer.outputs["probabilities"]
        shape = (1, np.count_nonzero(volume[tile.computed]), self.num_classes)
        is_usable = rows.shape == shape and rows.dtype == np.float32
        if not is_usable or not np.allclose(rows.sum(axis=-1), 1, atol=1e-2):
            raise ServerError(
                f"{self.connection.address}: its answer is not the probabilities of {shape[1]} "
                f"voxels and {shape[2]} classes. Serve a model that mtseg-export of this version "
                "wrote."
            )
        return rows[0]

    def run_all(self, volume: np.ndarray, plan: Plan) -> Iterator[tuple[Tile, np.ndarray]]:
        """Has the server compute the tiles of a plan, several at once; they come in turn.

        Raises:
            ServerError: if one of them fails; the message says how far it came.
        """
        in_flight = self.connection.options.in_flight
        pool = ThreadPoolExecutor(in_flight)
        waiting, under_way = iter(plan.tiles), deque[tuple[Tile, Future]]()

        def send(count: int) -> None:
            for tile in itertools.islice(waiting, count):
                under_way.append((tile, pool.submit(self.run, volume, tile)))

        num_done = 0
        try:
            send(in_flight)
            while under_way:
                tile, future = under_way.popleft()
                rows = future.result()
                send(1)  # so that the server is busy while these rows are worked on
                yield tile, rows
                num_done += 1
        except ServerError as error:
            self.connection.close()
            raise type(error)(
                f"{error} {num_done} of {len(plan.tiles)} tiles were done."
            ) from error
        except KeyboardInterrupt:
            self.connection.close()  # else the process would wait for answers
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def load_served(
    text: str, precision: str | None = None, options: ServerOptions | None = None
) -> ExportedModel:
    """Makes a served model usable like one on this machine.

    Args:
        text: its address.
        precision: `float32` or `bfloat16`; None is float32, since what the server's processor is
            good at is not known here.
        options: how the server is asked.

    Raises:
        InputError: if the address is none, or no model of this version of mtseg is served there.
    """
    address, options = parse_address(text), options or ServerOptions()
    connection = connect(address, options)
    answer = connection.predict(
        DESCRIBE, {"schema": np.array([MANIFEST_SCHEMA], np.int32)}, ("manifest",), is_first=True
    )
    try:
        (content,) = answer.outputs["manifest"].tolist()
        manifest = json.loads(content)
    except (AttributeError, TypeError, ValueError) as error:
        raise ServerError(
            f"{address}: its answer is no manifest. Serve a model that mtseg-export of this "
            "version wrote."
        ) from error
    check_manifest(manifest, str(address))
    version = address.version if answer.version is None else answer.version
    network = ServedNetwork(connection, version, len(manifest["classes"]), precision or "float32")
    model = make_exported(
        str(dataclasses.replace(address, version=version)), manifest, network, connection
    )
    if address.version is not None:
        return model
    return dataclasses.replace(model, renew=lambda: load_served(text, precision, options))
