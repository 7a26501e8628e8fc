"""mtseg-check: every issue of a data set, before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from pathlib import Path

from mtseg.cli.command import BAD_INPUT, DONE, add_bids_filter, positive, run
from mtseg.errors import InputError
from mtseg.system.progress import Progress


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-check",
        description="Read every scan and label map of a data set and list all issues. Nothing is "
        "written.",
        epilog="Example: mtseg-check brain:nnunet Dataset101_Brain",
    )
    parser.add_argument(
        "source", metavar="TASK:SOURCE", help="task and source, such as brain:miccai2012"
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the data set")
    add_bids_filter(parser)
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
    from mtseg.sources.checks import (
        SubjectReport,
        check_reports,
        check_subject,
        format_issues,
    )
    from mtseg.sources.find import find_subjects
    from mtseg.sources.subject import Issue
    from mtseg.sources.summary import format_summary, summary_values
    from mtseg.system.hardware import num_cores
    from mtseg.system.processes import run_all
    from mtseg.tasks.label_space import filter_bids, parse_tasks
    from mtseg.tasks.task_file import GENERATED

    label_space = parse_tasks(arguments.source)
    if arguments.bids_filter is not None:
        label_space = filter_bids(label_space, arguments.bids_filter)
    selections = label_space.selections
    if len(selections) != 1 or len(selections[0].sources) != 1:
        raise InputError(f"{arguments.source}: names several sources. Check them one at a time.")
    task, (source,) = selections[0].task, selections[0].sources
    if source == GENERATED:
        raise InputError(f"{arguments.source}: phantoms need no check: they are generated.")
    issues: tuple[Issue, ...]
    ordered: list[SubjectReport] = []
    try:
        found = find_subjects(task, source, Path(arguments.folder))
    except InputError as error:
        issues = (Issue(error.kind or "missing", "", str(error)),)
    else:
        reports = {}
        read = functools.partial(check_subject, task, found.labels)
        with Progress(
            "Checking", len(found.subjects), "subjects", is_quiet=arguments.json
        ) as progress:
            processes = arguments.num_processes or num_cores()
            for report in run_all(read, found.subjects, processes, "mtseg.sources.checks"):
                reports[report.subject] = report
                progress.advance(note=report.subject.name)
        ordered = [reports[subject] for subject in found.subjects]
        issues = check_reports(task, found, ordered)
    num_errors = sum(issue.is_error for issue in issues)
    if arguments.json:
        listed = [dataclasses.asdict(issue) for issue in issues]
        result = {"schema": 1, "subjects": len(ordered), "flaws": listed}
        print(json.dumps(result | {"figures": summary_values(task, ordered)}, indent=2))
    else:
        if issues:
            print(format_issues(issues), end="\n\n")
        if ordered:
            print(f"{task.name}:{source}, {format_summary(task, found, ordered)}\n")
        warnings = len(issues) - num_errors
        print(f"{len(ordered)} subjects read: {num_errors} errors, {warnings} warnings.")
    return BAD_INPUT if num_errors else DONE
