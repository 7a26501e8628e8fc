"""One series of a spool: from its images to a DICOM SEG that waits for its delivery."""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from mtseg.errors import InputError
from mtseg.gateway.spool import MOST_ATTEMPTS, RESULTS, Spool
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.results import ScanResults, dicom_seg_path, verdict_path
from mtseg.serving.connection import RequestError, ServerError
from mtseg.system.atomic_files import remove_path
from mtseg.system.signals import Stopped

_LOG = logging.getLogger(__name__)

_FULL_DISK = errno.ENOSPC, errno.EDQUOT


class NotNowError(Exception):
    """A series that may be segmented later: the disk is full, or a server did not compute it."""


def seg_path(folder: Path) -> Path:
    """The DICOM SEG of a series.

    Args:
        folder: that of the series in `work` or `outgoing`.
    """
    return dicom_seg_path(folder / RESULTS / folder.name)


def verdict_of(folder: Path) -> Path:
    """The verdict file of a series; `folder` as for `seg_path`."""
    return verdict_path(folder / RESULTS / folder.name)


def segment_series(
    spool: Spool,
    series: str,
    model: ExportedModel,
    options: Options,
    check_stop: Callable[[], None],
) -> None:
    """Segments a series in `work`, which then is in `outgoing` or in `failed`.

    Args:
        spool: has the series.
        series: its Series Instance UID.
        model: from `mtseg.load`.
        options: with `use_dicom_seg`.
        check_stop: called after every tile; raises `Stopped` to end the work.

    Raises:
        NotNowError: if it must be tried again later. It stays in `work`.
        Stopped: if `check_stop` did. It stays in `work`.
    """
    if num_refused := spool.count_refused(series):
        reason = (
            f"incomplete: {num_refused} of its objects, refused because they were damaged or found "
            "no room, did not come again. It is segmented when they do"
        )
    elif (attempt := spool.begin_attempt(series)) > MOST_ATTEMPTS:
        reason = (
            f"the gateway ended {MOST_ATTEMPTS} times while it segmented this series, perhaps "
            "because the memory ran out"
        )
    else:
        reason = _try_series(spool, series, model, options, check_stop, attempt)
    if reason:
        spool.fail(series, "work", reason)
        _LOG.info(f"series {series}: failed: {reason}")


def _try_series(
    spool: Spool,
    series: str,
    model: ExportedModel,
    options: Options,
    check_stop: Callable[[], None],
    attempt: int,
) -> str:
    """Segments a series and moves it to `outgoing`; `attempt` is from `Spool.begin_attempt`.

    Returns:
        Why it could not be done; empty if it was.
    """
    folder = spool.path("work", series)
    remove_path(folder / RESULTS)
    outcome: ScanResults | InputError
    is_counted = False
    try:
        ((_, outcome),) = segment_files(
            model, [folder], folder / RESULTS, options, on_flop=lambda _: check_stop()
        )
    except Stopped:
        raise
    except ServerError as error:
        # A server that is away may be waited for, but a request that it never computes would hold
        # up all other series.
        is_counted = isinstance(error, RequestError)
        if is_counted and attempt == MOST_ATTEMPTS:
            return f"the server did not compute it in {attempt} attempts: {error}"
        raise NotNowError(str(error)) from error
    except Exception as error:
        # Not its text: that may have values of the header, such as the name of the patient.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return f"a defect of mtseg: {type(error).__name__} in {where}"
    finally:
        if not is_counted:
            spool.end_attempt(series)
    if isinstance(outcome, InputError):
        if isinstance(outcome.__cause__, OSError) and outcome.__cause__.errno in _FULL_DISK:
            raise NotNowError(str(outcome))
        return str(outcome).replace("\n", " ")
    if outcome.is_withheld:
        return f"the labels are withheld: {outcome.verdict.warning}"
    spool.send_out(series)
    return ""
