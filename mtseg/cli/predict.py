"""mtseg-predict: scan files to label files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtseg.cli import BAD_INPUT, DONE, SOME_FAILED, import_tensorflow, run
from mtseg.errors import InputError


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-predict",
        description="Segment scans. The network recognises modality and anatomy by itself; each "
        "label file is on its scan's own grid.",
    )
    parser.add_argument("scans", nargs="+", metavar="SCAN", help="NIfTI files")
    parser.add_argument("--model", required=True, metavar="DIR", help="from mtseg-export")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="folder of the label files"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write each class's probability"
    )
    parser.add_argument(
        "--spacing-mm", type=float, help="isotropic size to work at (the scan's finest)"
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
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give a folder for the label files.")
    missing = [str(scan) for scan in scans if not scan.exists()]
    if len(missing) == len(scans):  # nothing to do: say so before TensorFlow is loaded
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a NIfTI scan.")

    import_tensorflow()
    from mtseg.predict import load, scan_stem, segment_file
    from mtseg.progress import Progress

    names = [scan_stem(scan) for scan in scans]
    if clash := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"{clash}: two scans have this name and would share a label file. Give them one at a "
            "time, with different -o folders."
        )
    model = load(arguments.model)
    failures = 0
    with Progress("Segmenting", len(scans), "scans") as progress:
        for scan in scans:
            try:
                result = segment_file(
                    model,
                    scan,
                    out,
                    spacing_mm=arguments.spacing_mm,
                    is_ct={"auto": None, "ct": True, "mr": False}[arguments.modality],
                    use_probabilities=arguments.probabilities,
                )
            except InputError as error:
                if len(scans) == 1:
                    raise
                failures += 1
                print(f"error: {error}", file=sys.stderr)
            else:
                found = ", ".join(f"{n} {ml:.1f} ml" for n, ml in result.volumes_ml.items())
                progress.say(f"{scan} -> {result.label_path}: {found or 'background only'}")
            progress.advance(note=scan.name)
    if failures:
        print(f"{failures} of {len(scans)} scans failed.", file=sys.stderr)
    if failures == len(scans):
        return BAD_INPUT
    return SOME_FAILED if failures else DONE
