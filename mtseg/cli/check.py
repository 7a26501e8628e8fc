"""mtseg-check: every issue of a data set, before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli.command import (
    BAD_INPUT,
    DONE,
    Parser,
    add_bids_filter,
    positive,
    print_doubts,
    run,
)
from mtseg.errors import InputError
from mtseg.system.progress import Progress

if TYPE_CHECKING:
    from mtseg.sources.checks import SubjectReport
    from mtseg.sources.subject import FoundSubjects
    from mtseg.tasks.task import Task


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "check",
        description="Read every scan and label map of a data set, list all issues, and summarise "
        "the data. Nothing is written, except for the pictures.",
        epilog="Example: mtseg-check brain:nnunet Dataset101_Brain",
    )
    parser.add_argument(
        "source", metavar="TASK:SOURCE", help="task and source, such as brain:miccai2012"
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the data set")
    add_bids_filter(parser)
    parser.add_argument(
        "--write-task-file",
        metavar="TASK.toml",
        help="write a task file for the data set in DIR, and give the name of its layout, such as "
        "nnunet, in place of TASK:SOURCE",
    )
    parser.add_argument(
        "--pictures",
        metavar="PICTURES",
        help="folder for sheets of pictures: every subject in three planes under its label map",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument(
        "--num-processes",
        type=positive,
        metavar="N",
        help="subjects to read in parallel (default: number of cores)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_check, argv)


def _check(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.write_task_file is not None:
        return _write_task_file(arguments)
    from mtseg.sources.checks import check_reports, format_issues
    from mtseg.sources.find import find_subjects
    from mtseg.sources.subject import Issue
    from mtseg.sources.summary import format_summary, summary_values
    from mtseg.system.hardware import num_cores
    from mtseg.tasks.label_space import filter_bids, name_sources, parse_tasks
    from mtseg.tasks.task_file import GENERATED

    label_space = parse_tasks(arguments.source)
    if arguments.bids_filter is not None:
        label_space = filter_bids(label_space, arguments.bids_filter)
    selections = label_space.selections
    if len(selections) != 1 or len(selections[0].sources) != 1:
        raise InputError(f"{arguments.source}: names several sources. Check them one at a time.")
    task, (source,) = selections[0].task, selections[0].sources
    if source == GENERATED:
        raise InputError(
            f"{arguments.source}: phantoms need no check: they are generated. Name the source of "
            f"the scans: {name_sources(selections[0])}."
        )
    print_doubts(label_space)
    if arguments.pictures is not None:
        from mtseg.sources.overlay_sheets import require_matplotlib

        require_matplotlib()
    num_processes = arguments.num_processes or num_cores()
    issues: tuple[Issue, ...]
    reports: list[SubjectReport] = []
    try:
        found = find_subjects(task, source, Path(arguments.folder))
    except InputError as error:
        issues = (Issue(error.kind or "missing", "", str(error)),)
    else:
        reports = _read(task, found, num_processes, arguments.json)
        issues = check_reports(task, found, reports)
    num_errors = sum(issue.is_error for issue in issues)
    if arguments.json:
        listed = [dataclasses.asdict(issue) for issue in issues]
        result = {"schema": 1, "subjects": len(reports), "flaws": listed}
        print(json.dumps(result | {"figures": summary_values(task, reports)}, indent=2))
    else:
        if issues:
            print(format_issues(issues), end="\n\n")
        if reports:
            print(f"{task.name}:{source}, {format_summary(task, found, reports)}\n")
    if arguments.pictures is not None and reports:
        _draw(task, found, reports, Path(arguments.pictures), num_processes, arguments.json)
    if not arguments.json:
        warnings = len(issues) - num_errors
        print(f"{len(reports)} subjects read: {num_errors} errors, {warnings} warnings.")
    return BAD_INPUT if num_errors else DONE


def _write_task_file(arguments: argparse.Namespace) -> int:
    """Writes a task file in place of a check."""
    from mtseg.sources.layouts.task_draft import write_task_draft

    for name in ("pictures", "json", "bids_filter"):
        if getattr(arguments, name):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: means nothing with --write-task-file. Leave it out.")
    path = Path(arguments.write_task_file)
    num_classes = write_task_draft(path, arguments.source, Path(arguments.folder))
    print(
        f"{path}: a task of {num_classes} classes. Read it and correct it, then: "
        f"mtseg-check {path}:{arguments.source} {arguments.folder}"
    )
    return DONE


def _read(
    task: Task, found: FoundSubjects, num_processes: int, is_quiet: bool
) -> list[SubjectReport]:
    """Checks every subject; the reports are in the order of the subjects."""
    from mtseg.sources.checks import check_subject
    from mtseg.system.processes import run_all

    reports = {}
    read = functools.partial(check_subject, task, found.labels)
    with Progress("Checking", len(found.subjects), "subjects", is_quiet=is_quiet) as progress:
        for report in run_all(read, found.subjects, num_processes, "mtseg.sources.checks"):
            reports[report.subject] = report
            progress.advance(note=report.subject.name)
    return [reports[subject] for subject in found.subjects]


def _draw(
    task: Task,
    found: FoundSubjects,
    reports: Sequence[SubjectReport],
    folder: Path,
    num_processes: int,
    is_quiet: bool,
) -> None:
    """Writes the sheets of pictures, in the order of the subjects' names."""
    from mtseg.sources import overlay_sheets
    from mtseg.system.processes import run_all
    from mtseg.tasks.label_table import make_label_table

    table = make_label_table([(task.name, tissue) for tissue in task.classes])
    colours = overlay_sheets.class_colours([entry.rgb for entry in table])
    draw = functools.partial(overlay_sheets.draw_subject, task, found.labels, colours)
    pictures = {}
    with Progress("Drawing", len(reports), "subjects", is_quiet=is_quiet) as progress:
        for picture in run_all(draw, reports, num_processes, overlay_sheets.__name__):
            if picture is not None:
                pictures[picture.title] = picture
            progress.advance()
    ordered = [picture for _, picture in sorted(pictures.items())]
    source = found.labels.name
    paths = list(overlay_sheets.write_sheets(folder, task, source, colours, ordered))
    if not is_quiet:
        written = ", ".join(map(str, paths)) or "no sheet, because no subject can be drawn"
        missing = len(reports) - len(pictures)
        left_out = f" {missing} subjects cannot be drawn: the issues say why." if missing else ""
        print(f"Pictures: {written}.{left_out}")
