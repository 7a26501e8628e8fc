"""mtseg-predict: scan files to label files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli import BAD_INPUT, DONE, SOME_FAILED, import_tensorflow, run
from mtseg.errors import InputError
from mtseg.progress import Progress

if TYPE_CHECKING:
    from mtseg.predict import Work


PACKAGED_MODEL = (
    "No model named: the one that comes with mtseg is used. For research only; it knows "
    "skull-stripped brain MR, and breast MR and coronary CT angiography from synthetic scans alone."
)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-predict",
        description="Segment scans. The network recognises modality and anatomy by itself; each "
        "label file is on its scan's own grid.",
    )
    parser.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="files (NIfTI, MGH, NRRD, MetaImage, DICOM) or folders of a DICOM series",
    )
    parser.add_argument(
        "--model", metavar="DIR", help="from mtseg-export (the model that comes with the package)"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="folder of the label files"
    )
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write a DICOM segmentation; the scans must be DICOM series",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write each class's probability, in steps of 1/255",
    )
    parser.add_argument(
        "--spacing-mm", type=float, help="isotropic size to work at (the scan's finest)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the convolutions; auto: the faster one on this machine (%(default)s)",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        metavar="GB",
        help="memory that may be used, 1e9 bytes each, beside that of the libraries (half of what "
        "is free)",
    )
    parser.add_argument(
        "--modality",
        choices=("auto", "ct", "mr"),
        default="auto",
        help="whether intensities are Hounsfield units; auto: below -500 means CT (%(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_predict, argv)


def _predict(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    scans, out = [Path(scan) for scan in arguments.scans], Path(arguments.out)
    if arguments.spacing_mm is not None and not 0.05 <= arguments.spacing_mm <= 20:
        raise InputError(
            f"--spacing-mm: {arguments.spacing_mm} is no voxel size in mm. Give 0.05 to 20."
        )
    if arguments.memory_gb is not None and not arguments.memory_gb > 0:
        raise InputError(f"--memory-gb: {arguments.memory_gb} is no memory. Give a number above 0.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give a folder for the label files.")
    missing = [str(scan) for scan in scans if not scan.exists()]
    if len(missing) == len(scans):  # nothing to do: say so before TensorFlow is loaded
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a scan.")

    import_tensorflow()
    from mtseg.exported import load
    from mtseg.predict import Options, scan_stem, segment_files

    names = [scan_stem(scan) for scan in scans]
    if clash := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"{clash}: two scans have this name and would share a label file. Give them one at a "
            "time, with different -o folders."
        )
    if arguments.model is None:
        print(PACKAGED_MODEL, flush=True)
    model = load(arguments.model, None if arguments.precision == "auto" else arguments.precision)
    options = Options(
        spacing_mm=arguments.spacing_mm,
        is_ct={"auto": None, "ct": True, "mr": False}[arguments.modality],
        use_probabilities=arguments.probabilities,
        use_dicom_seg=arguments.dicom_seg,
        memory_bytes=None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    )
    bars = _Bars(len(scans), model.network.precision)
    failures = 0
    for scan, outcome in segment_files(
        model, scans, out, options, on_start=bars.start, on_flop=bars.advance
    ):
        if isinstance(outcome, InputError):
            if len(scans) == 1:
                raise outcome
            failures += 1
            print(f"error: {outcome}", file=sys.stderr)
        else:
            found = ", ".join(f"{n} {ml:.1f} ml" for n, ml in outcome.volumes_ml.items())
            bars.say(f"{scan} -> {outcome.label_path}: {found or 'background only'}")
            bars.say(f"  {outcome.verdict.describe()}; in full: {outcome.verdict_path}")
            if outcome.verdict.warning:
                print(f"warning: {scan}: {outcome.verdict.warning}", file=sys.stderr)
    if failures:
        print(f"{failures} of {len(scans)} scans failed.", file=sys.stderr)
    if failures == len(scans):
        return BAD_INPUT
    return SOME_FAILED if failures else DONE


class _Bars:
    """A progress bar a scan, by the operations done."""

    def __init__(self, num_scans: int, precision: str) -> None:
        self._num_scans, self._precision = num_scans, precision
        self._number = 0
        self._bar: Progress | None = None
        self._left = 0.0

    def start(self, path: Path, work: Work) -> None:
        """Begins the bar of a scan, and says what it will take."""
        num_tiles = len(work.plan.tiles)
        self.say(
            f"{path}: {work.plan.flop / 1e12:.2f} TFLOP in {self._precision}, {num_tiles} "
            f"tile{'s' * (num_tiles != 1)}, at most {work.peak_bytes / 1e9:.2f} GB."
        )
        self._number += 1
        title = f"{path.name} ({self._number} of {self._num_scans})"
        self._bar = Progress(title, round(work.plan.flop / 1e9), "GFLOP")
        self._left = 0.0

    def advance(self, flop: int) -> None:
        """Counts operations as done."""
        assert self._bar is not None
        self._left += flop / 1e9
        self._bar.advance(int(self._left))
        self._left -= int(self._left)

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.say(line)
