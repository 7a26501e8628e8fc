"""mtseg-report: finished experiments to a page for readers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli.command import (
    DONE,
    Parser,
    run,
    start_tensorflow,
)
from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write, writing_to

if TYPE_CHECKING:
    from mtseg.experiments.unlabelled import UnlabelledScan


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "report",
        description="Write a report on finished experiments: one HTML file that works without a "
        "network connection, its figures as PNG and SVG files, and optionally Markdown and CSV.",
    )
    parser.add_argument("experiments", metavar="OUT", help="folder that mtseg-experiments wrote")
    parser.add_argument(
        "-o",
        "--html",
        metavar="FILE",
        help="the HTML file; the figures go into a folder beside it (default: OUT/report.html)",
    )
    parser.add_argument(
        "--markdown", metavar="FILE", help="also write Markdown, with PNG figures beside it"
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of prepared records, if it was moved after the experiments",
    )
    parser.add_argument(
        "--unlabelled",
        action="append",
        default=[],
        metavar="TASK=SCAN",
        help="a scan without labels: the network for all tasks segments it, and the report shows "
        "the share of voxels that get a class of another task; may be repeated",
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="also write all results of all networks as CSV"
    )
    parser.add_argument("--notes", metavar="FILE", help="text file to insert below the summary")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_report, argv)


def _report(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    path = Path(arguments.experiments)
    page = Path(arguments.html) if arguments.html else path / "report.html"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder. Give the --out of mtseg-experiments.")
    scans = [_task_and_scan(text) for text in arguments.unlabelled]
    notes = _read_notes(arguments.notes)
    _check_libraries()
    from mtseg.experiments.report.contents import TITLE, make_report
    from mtseg.experiments.report.page import save_figures, to_html, to_markdown
    from mtseg.experiments.results import read_results, to_csv

    results = read_results(path, arguments.data_dir)
    unlabelled: list[UnlabelledScan] = []
    if scans:
        start_tensorflow(None)
        from mtseg.experiments.unlabelled import segment_unlabelled

        unlabelled = segment_unlabelled(results, path, scans)
    blocks = make_report(results, path, unlabelled, notes)
    with writing_to(page, "Make room, or give another file."):
        save_figures(blocks, page.parent / f"{page.stem}_figures", ("png", "svg"))
        _write(page, to_html(TITLE, blocks))
        print(f"Wrote {page}.")
        if arguments.csv:
            _write(Path(arguments.csv), to_csv(results))
            print(f"Wrote {arguments.csv}.")
        if arguments.markdown:
            markdown = Path(arguments.markdown)
            save_figures(blocks, markdown.parent / markdown.stem, ("png",))
            text = to_markdown(TITLE, blocks, markdown.stem)
            _write(markdown, text)
            print(f"Wrote {markdown}.")
    return DONE


def _task_and_scan(text: str) -> tuple[str, Path]:
    task, equals, scan = text.partition("=")
    if not equals or not task:
        raise InputError(f"--unlabelled: {text!r} is not TASK=SCAN, such as breast=scan.nii.gz.")
    if not Path(scan).exists():
        raise InputError(f"{scan}: no such file. Give the path of a scan.")
    return task, Path(scan)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_notes(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text. Give a file of notes.") from error


def _check_libraries() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a report needs {error.name}, which is not installed. Run: pip install 'mtseg[report]'"
        ) from error
