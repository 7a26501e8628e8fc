"""A served model, used like one on this machine.

Begin with `load_served`. The client prepares the scan, divides it into tiles that fit into a
message, and restores the labels; the server computes the tiles, a few of them at the same time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.dense import with_halo
from mtseg.inference.tile_cost import Message
from mtseg.inference.tiling import Plan, Tile, plan_tiles
from mtseg.models.loading import ExportedModel, Renewal, make_exported
from mtseg.models.signature_names import DESCRIBE, tile_probabilities_signature, tile_signature
from mtseg.network.architecture import HALO
from mtseg.runs.manifest import MANIFEST_SCHEMA, check_manifest
from mtseg.serving.address import PORTS, Address, ServerOptions, parse_address
from mtseg.serving.connection import (
    EXPORTED_BY_MTSEG,
    Connection,
    ModelGoneError,
    ServerError,
)
from mtseg.serving.grpc import GrpcConnection
from mtseg.serving.rest import RestConnection
from mtseg.system.atomic_files import parse_json

MOST_JSON_BYTES = 500_000_000
"""A scan that needs more JSON text than this is refused. gRPC needs a fifth of the bytes."""

_MEMORY_BYTES = 1e9
"""Memory of the client if no other limit is given."""

_JSON_VALUE_BYTES, _JSON_LABEL_BYTES = 22, 3
"""Length in JSON of a float32 with all its digits, and of a label, each with its separator."""

_VALUE_BYTES = 4
"""Length of a float32 in a message over gRPC."""

_PROBABILITY_TOLERANCE = 1e-2
"""How far the sum of a voxel's probabilities may be from 1, after bfloat16 convolutions."""


def connect(address: Address, options: ServerOptions) -> Connection:
    """Makes a connection, without sending anything yet.

    Args:
        address: the server and the model.
        options: how requests are sent.

    Raises:
        InputError: if a needed package is not installed, the certificates cannot be read, or a
            token would be sent unencrypted.
    """
    return (RestConnection if address.is_rest else GrpcConnection)(address, options)


def load_served(
    text: str, precision: str | None = None, options: ServerOptions | None = None
) -> ExportedModel:
    """Makes a served model usable like one on this machine; only its description is loaded.

    Args:
        text: its address, as for `mtseg.serving.address.parse_address`.
        precision: `float32` or `bfloat16`; None is float32, because the client does not know which
            the server's processor computes faster.
        options: how requests are sent; None uses the defaults.

    Returns:
        The model in the version that the server has now. If the address names no version, the
        model's `renewal` loads the newest again when this one is no longer served.

    Raises:
        InputError: if the text is not an address, no server has that precision, or the model there
            is of another version of mtseg or of none.
        ServerError: if the server does not answer as it should.
    """
    if precision == "int8":
        raise InputError("--precision int8: a server does not compute in int8. Leave it out.")
    connection = connect(parse_address(text), options or ServerOptions())
    model = _describe(connection, precision or "float32")
    if connection.address.version is not None:
        return model
    renewal = Renewal(
        lambda: dataclasses.replace(_describe(connection, precision or "float32"), renewal=renewal)
    )
    return dataclasses.replace(model, renewal=renewal)


def _describe(connection: Connection, precision: str) -> ExportedModel:
    """The model in the version that the server has now, over a connection."""
    address = connection.address
    response = connection.predict(
        DESCRIBE,
        {"schema": np.array([MANIFEST_SCHEMA], np.int32)},
        ("manifest",),
        is_description=True,
    )
    try:
        answered = response.outputs["manifest"]
        if answered.size != 1:  # one value may stand for any number of them
            raise ValueError
        manifest = parse_json(answered.item())
    except (AttributeError, TypeError, ValueError) as error:
        raise ServerError(
            f"{address}: its answer is not a manifest. {EXPORTED_BY_MTSEG}"
        ) from error
    check_manifest(manifest, str(address))
    version = address.version if response.version is None else response.version
    signature = tile_probabilities_signature(precision)
    if signature not in manifest.get("signatures", ()):
        # Of an earlier version: the server computes such requests without any limit.
        signature = tile_signature(precision)
    network = ServedNetwork(connection, version, len(manifest["classes"]), precision, signature)
    return make_exported(
        str(dataclasses.replace(address, version=version)), manifest, network, connection
    )


@dataclasses.dataclass(frozen=True)
class ServedNetwork:
    """A network that a server computes, with the methods of `mtseg.inference.dense.DenseNetwork`.

    Attributes:
        connection: to the server.
        version: version of the model, the same for all tiles of a scan; None is the newest.
        num_classes: number of combined classes, including background.
        precision: of the convolutions: `float32` or `bfloat16`.
        signature: the signature that computes a tile.
        engine: what computes.
    """

    connection: Connection
    version: int | None
    num_classes: int
    precision: str
    signature: str
    engine: str = "server"

    def plan(
        self, volume: npt.NDArray[np.float32], memory_bytes: float | None = None, **how: Any
    ) -> Plan:
        """Divides a volume into tiles that fit into the server's messages.

        Args:
            volume: float32 (I, J, K), RAS+, prepared intensities, exactly 0 outside the foreground.
            memory_bytes: memory that the client may use; None is 1 GB.
            **how: as for `mtseg.inference.tiling.plan_tiles`.

        Raises:
            InputError: if no tile fits into a message, or the scan needs too much JSON text.
        """
        options, is_rest = self.connection.options, self.connection.address.is_rest
        message = Message(
            options.message_bytes,
            value_bytes=_JSON_VALUE_BYTES if is_rest else _VALUE_BYTES,
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
            self._refuse_too_much_text(volume, plan)
        return plan

    def _refuse_too_much_text(self, volume: npt.NDArray[np.float32], plan: Plan) -> None:
        sent = [
            math.prod(part.stop - part.start + 2 * HALO for part in tile.computed)
            for tile in plan.tiles
        ]
        voxels = [np.count_nonzero(volume[tile.computed]) for tile in plan.tiles]
        num_bytes = _JSON_VALUE_BYTES * (sum(sent) + self.num_classes * sum(voxels))
        if num_bytes > MOST_JSON_BYTES:
            address = self.connection.address
            scheme = "grpcs" if address.is_encrypted else "grpc"
            address = dataclasses.replace(address, scheme=scheme, port=PORTS[scheme])
            raise InputError(
                f"is about {num_bytes / 1e6:.0f} MB of text in {len(plan.tiles)} requests over "
                f"HTTP; the limit is {MOST_JSON_BYTES / 1e6:.0f} MB. Use gRPC, by default "
                f"{address}."
            )

    def run(self, volume: npt.NDArray[np.float32], tile: Tile) -> npt.NDArray[np.float32]:
        """Has the server compute a tile.

        Args:
            volume: float32 (I, J, K), RAS+, the one that the plan was made for.
            tile: a tile of the plan.

        Returns:
            The probabilities of the foreground voxels of `tile.computed`, float32 (voxels,
            num_classes), in C order.

        Raises:
            ServerError: if the server does not answer with them.
        """
        response = self.connection.predict(
            self.signature,
            {
                "tile": with_halo(volume, tile)[np.newaxis],
                "intensity_scale": np.ones(1, np.float32),
                "chunk_positions": np.zeros(1, np.int32),
            },
            ("probabilities",),
            self.version,
        )
        rows = response.outputs["probabilities"]
        shape = (1, np.count_nonzero(volume[tile.computed]), self.num_classes)
        is_usable = rows.shape == shape and rows.dtype == np.float32
        # NaN is close to nothing, so this refuses it too.
        if not is_usable or not np.allclose(rows.sum(axis=-1), 1, atol=_PROBABILITY_TOLERANCE):
            raise ServerError(
                f"{self.connection.address}: its answer is not the probabilities of {shape[1]} "
                f"voxels and {shape[2]} classes. {EXPORTED_BY_MTSEG}"
            )
        probabilities: npt.NDArray[np.float32] = rows[0]
        return probabilities

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Has the server compute the tiles of a plan, several at a time.

        Yields:
            Each tile and its probabilities as `run` returns them, in the order of the plan.

        Raises:
            ServerError: if one of them fails; the message says how many were done.
        """
        pool = ThreadPoolExecutor(self.connection.options.in_flight)
        to_send = iter(plan.tiles)
        in_flight = deque[tuple[Tile, Future[npt.NDArray[np.float32]]]]()

        def send(count: int) -> None:
            for tile in itertools.islice(to_send, count):
                in_flight.append((tile, pool.submit(self.run, volume, tile)))

        num_done = 0
        try:
            send(self.connection.options.in_flight)
            while in_flight:
                tile, future = in_flight.popleft()
                rows = future.result()
                send(1)  # before the rows are used, so that the server stays busy
                yield tile, rows
                num_done += 1
        except ServerError as error:
            # After a version is gone, requests for another one go on: of a scan that is read ahead,
            # or of the one that is computed.
            if not isinstance(error, ModelGoneError):
                self.connection.close()
            raise type(error)(
                f"{error} {num_done} of {len(plan.tiles)} tiles were done."
            ) from error
        except KeyboardInterrupt:
            self.connection.close()  # or the process would wait for answers
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
