"""The gateway as a whole: `run_gateway` receives, segments and delivers until it is stopped."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

from mtseg.errors import InputError
from mtseg.gateway.delivery import FIRST_WAIT_S, LONGEST_WAIT_S, Delivery
from mtseg.gateway.peers import Caller, Destination
from mtseg.gateway.receiver import receiving
from mtseg.gateway.segmenting import NotNowError, segment_series
from mtseg.gateway.spool import Spool, open_spool
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.scan import wanted_tasks
from mtseg.serving.connection import ServerError
from mtseg.system.signals import Stopped, StopRequest

_LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a gateway does.

    Attributes:
        spool: folder that keeps what was received until it is delivered.
        callers: who may send.
        ae_title: of the gateway.
        address: IP address to listen at.
        port: to listen at; 0 takes a free one.
        quiet_s: a series is complete when nothing of it has arrived for so many seconds.
        max_bytes: of all objects and results in the spool.
        out_dir: folder for the segmentations; None if they are only sent.
        destination: where they are sent; None if they are only written. One of both is given.
        first_wait_s: seconds before another attempt to deliver, or to segment on a server that
            does not answer; each further wait is twice as long.
    """

    spool: Path
    callers: tuple[Caller, ...]
    ae_title: str = "MTSEG"
    address: str = "127.0.0.1"
    port: int = 11112
    quiet_s: float = 30.0
    max_bytes: float = 50e9
    out_dir: Path | None = None
    destination: Destination | None = None
    first_wait_s: float = FIRST_WAIT_S


def run_gateway(
    settings: Settings,
    load_model: Callable[[], ExportedModel],
    options: Options,
    stop: StopRequest,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Receives, segments and delivers series until it is stopped.

    A series that is being segmented then stays in the spool and is segmented after the next start.

    Args:
        settings: what the gateway does.
        load_model: loads the model; called once, when objects can be received already. Of a served
            model whose version was not given, each series is segmented by the newest one.
        options: how series are segmented, with `use_dicom_seg`.
        stop: ends the gateway.
        on_listening: called with the port when objects can be received.

    Raises:
        InputError: if the spool, the port or the model cannot be used, or the model does not have
            the task of the options.
    """
    with open_spool(settings.spool, settings.max_bytes) as spool:
        delivery = Delivery(
            spool,
            settings.out_dir,
            settings.destination,
            settings.ae_title,
            settings.first_wait_s,
        )
        with receiving(
            spool, settings.ae_title, settings.callers, settings.address, settings.port
        ) as port:
            on_listening(port)
            model = load_model()
            wanted_tasks(model, options)
            with delivery.running():
                wait_s = settings.first_wait_s
                while not stop.is_made:
                    series = _take_quiet(spool, settings.quiet_s)
                    if series is None:
                        time.sleep(_POLL_SECONDS)
                        continue
                    try:
                        model = _newest(model, options)
                        segment_series(spool, series, model, options, stop.raise_if_made)
                        wait_s = settings.first_wait_s
                    except Stopped:
                        break
                    except (NotNowError, ServerError, OSError) as error:
                        _LOG.info(f"series {series}: tries again in {wait_s:.0f} s: {error}")
                        _wait(wait_s, stop)
                        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _newest(model: ExportedModel, options: Options) -> ExportedModel:
    """The newest version of a served model whose version was not given; any other as it is.

    Raises:
        InputError: if the newest version does not have the task of the options.
        ServerError: if the server does not answer as it should.
    """
    if model.renewal is None:
        return model
    newest = model.renewal.load()
    if newest.path == model.path:
        return model
    wanted_tasks(newest, options)
    _LOG.info(f"{newest.path}: segments from now on, in place of {model.path}")
    model.renewal.newest = newest
    return newest


def _take_quiet(spool: Spool, quiet_s: float) -> str | None:
    """As `Spool.take_quiet`.

    Raises:
        InputError: if somebody has removed a folder of the spool, or its disk is gone.
    """
    try:
        return spool.take_quiet(quiet_s)
    except OSError as error:
        raise InputError(
            f"{error.filename or spool.folder}: the spool cannot be used any more "
            f"({error.strerror}). Look at its disk and start the gateway again."
        ) from error


def _wait(seconds: float, stop: StopRequest) -> None:
    end_s = time.monotonic() + seconds
    while not stop.is_made and time.monotonic() < end_s:
        time.sleep(_POLL_SECONDS)
