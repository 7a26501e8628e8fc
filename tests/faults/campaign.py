"""The fault campaign: every test of a promise is run, every thorough one, and the tally written.

    python -m tests.faults.campaign --out docs/reliability.md

Takes hours on two cores; `--scale 0.1` kills and fuzzes a tenth as often. What has passed is kept
in `--journal`, so the same command again goes on where it was stopped, also with a larger scale. A
change of the package makes it begin anew, one of a test's file that test.
"""

import argparse
import collections
import functools
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

KINDS = {
    "fuzzed": "Fuzzed files, by number",
    "killed": "Commands killed and given again",
    "fault": "Named faults",
}

PROMISES = {
    "refused input": "Input that cannot be used is refused in one line that names the file and "
    "says what to do; exit code 2, no traceback, nothing half-written.",
    "atomic outputs": "A file or folder is never seen half-written; what it replaces stays until "
    "the new one is whole.",
    "goes on after a kill": "A command killed at any moment and given again ends with the results "
    "of one that was let be; no temporary file, lock or process is left.",
    "exact resume": "A training run that was killed and goes on has the weights of one that was "
    "not, to the bit.",
    "damage is noticed": "Flipped, missing or additional bytes of records and models are noticed "
    "before they are used; so are flipped or missing ones of checkpoints.",
    "scarcity is one line": "A full disk, little memory, no home folder, a closed output and the "
    "like end in one line or do not matter.",
    "one at a time": "Of two commands that prepare, train or export to one folder the second is "
    "refused or waits; results are never mixed.",
    "bounded memory": "Memory is asked for before it is used, and does not grow with the number of "
    "scans, mini-batches or requests.",
    "no code on load": "Loading weights, manifests, task files and configurations runs no code of "
    "theirs, and no name in them leads out of its folder.",
    "loopback only": "Nothing listens beyond this machine unless asked to, nothing is sent, and no "
    "token is shown.",
    "servers may fail": "A server that is absent, slow, wrong or killed ends in one line; what was "
    "finished is kept.",
    "defined numerics": "Values that are not finite, absent classes and empty volumes have a "
    "defined outcome.",
}  # fmt: skip


class Tally:
    """A pytest plugin: notes outcomes in the journal, and leaves out what has passed already.

    Args:
        journal: a file with a JSON object a line.
        passed: the tests that have passed. Of the processes of xdist the first writes, and tells
            the others.
    """

    def __init__(self, journal, passed, is_first):
        self._journal, self._passed, self._is_first = journal, passed, is_first

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        node.workerinput["passed"] = sorted(self._passed)

    def pytest_collection_modifyitems(self, config, items):
        left = [item for item in items if item.nodeid not in self._passed]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        shown = [text for name, text in report.user_properties if name == "shown"]
        if (
            not self._is_first
            or "promise" not in properties
            or (report.when != "call" and not report.failed)
        ):
            return
        if report.skipped:
            return
        promise, kind = properties["promise"]
        entry = {
            "test": report.nodeid, "code": code_of(report.nodeid.split("::")[0]),
            "promise": promise, "kind": kind,
            "cases": properties.get("cases", 1), "passed": report.passed,
            "seconds": round(report.duration, 1), "shown": shown,
        }  # fmt: skip
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def pytest_configure(config):
    """With `-p tests.faults.campaign --journal FILE`, here and in the processes of xdist."""
    if journal := config.getoption("--journal"):
        told = getattr(config, "workerinput", None)
        entries = {} if told else read_journal(Path(journal))
        passed = {name for name, entry in entries.items() if entry["passed"]}
        tally = Tally(Path(journal), set(told["passed"]) if told else passed, told is None)
        config.pluginmanager.register(tally, "tally")


def pytest_addoption(parser):
    parser.addoption("--journal", help="file of the campaign's outcomes")


@functools.cache
def code_of(file):
    """What the outcomes of a file's tests depend on: it, the package, and what tests share."""
    digest = hashlib.sha256()
    shared = [*ROOT.glob("mtseg/**/*.py"), *ROOT.glob("mtseg/**/*.toml")]
    shared += [path for path in ROOT.glob("tests/**/*.py") if not path.name.startswith("test_")]
    for path in [*sorted(shared), ROOT / file]:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def read_journal(path):
    """Test -> its last outcome with the code as it is."""
    lines = path.read_text().splitlines() if path.exists() else []
    entries = map(json.loads, lines)
    return {e["test"]: e for e in entries if e["code"] == code_of(e["test"].split("::")[0])}


def tally(entries):
    """The tally as lines of text: a line a kind."""
    lines = [f"{'':<34}{'cases':>7}{'survived':>10}"]
    for kind, title in KINDS.items():
        of_kind = [entry for entry in entries if entry["kind"] == kind]
        cases = sum(entry["cases"] for entry in of_kind)
        survived = sum(entry["cases"] for entry in of_kind if entry["passed"])
        lines.append(f"{title:<34}{cases:>7,}{survived:>10,}")
    return lines


def by_kind(entries):
    """Lines that say which commands were killed and which files were damaged, and how often."""
    lines = []
    for kind, title in (("killed", "Kills"), ("fuzzed", "Fuzzed files")):
        counts = collections.Counter()
        for entry in entries:
            if entry["kind"] == kind:
                name, _, words = entry["test"].partition("[")
                # Such as [3-train on JAX] or [dicom_header-7]; of others, the name of the test.
                what = re.sub(r"(^|-)\d+(-|$)", "", words.rstrip("]")).replace("_", " ")
                counts[what or f"`{name.rpartition('::')[2]}`"] += entry["cases"]
        if counts:
            found = ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()))
            lines += [f"{title}: {found}.", ""]
    return lines


def commit():
    """The commit of the code, and whether it was changed since; empty outside of a repository."""
    words = [["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "mtseg", "tests"]]
    head, changes = (
        subprocess.run(["git", *of], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for of in words
    )
    return head + (" with changes" if changes else "")


def document(entries, minutes, how):
    """`docs/reliability.md`; `how` is what was run, in words."""
    by_promise = collections.defaultdict(lambda: collections.defaultdict(list))
    for entry in entries:
        file, _, test = entry["test"].partition("::")
        by_promise[entry["promise"]][file, test.split("[")[0]].append(entry)
    shown = [line for entry in entries for line in entry["shown"]]
    lines = [
        "# Reliability", "",
        "What happens when things go wrong, tried. Every figure here was written by", "",
        "```", "python -m tests.faults.campaign --out docs/reliability.md", "```", "",
        how, "",
        "A case survives if the command does what its promise below says: no traceback, no hang",
        "(each has a time limit), no wrong result. Most of the tests also run in the checks of",
        "every change, with one kill of a command in place of many.", "",
        "```", *tally(entries), "```", "",
        f"The cases took {minutes:.0f} minutes, one or two at a time.", "",
        *by_kind(entries),
        *(["Measured on the way:", "", *(f"- {line}" for line in shown), ""] if shown else []),
        "## The promises, and the tests that hold them", "",
        "| Promise | Test | Cases |", "|---|---|---:|",
    ]  # fmt: skip
    for name, text in PROMISES.items():
        tests = sorted(by_promise[name].items())
        total = sum(entry["cases"] for _, found in tests for entry in found)
        lines.append(f"| **{name.capitalize()}.** {text} | | {total:,} |")
        for (file, test), found in tests:
            cases = sum(entry["cases"] for entry in found)
            lines.append(f"| | `{file}` `{test}` | {cases:,} |")
    failed = [entry["test"] for entry in entries if not entry["passed"]]
    if failed:
        lines += ["", "## Failed", "", *(f"- `{test}`" for test in failed)]
    return "\n".join(lines) + "\n"


def run_tests(arguments):
    """Runs what has not passed yet; the exit code of pytest."""
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-m", "promise or thorough", "--thorough", "-q",
            "--scale", str(arguments.scale),
            "-n", str(arguments.processes), "--dist", "load",
            "-p", "tests.faults.campaign", "--journal", arguments.journal.absolute(),
            *arguments.tests,
        ],
        cwd=ROOT, check=False,
    ).returncode  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the document there")
    parser.add_argument("--journal", type=Path, default=Path("reliability.jsonl"))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of all kills and fuzzed files (%(default)s)"
    )
    parser.add_argument(
        "--write-only", action="store_true", help="run nothing, and write what the journal has"
    )
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    parser.add_argument("tests", nargs="*", default=["tests"], help="files (all)")
    arguments = parser.parse_args()
    started = time.monotonic()
    code = 0 if arguments.write_only else run_tests(arguments)
    entries = list(read_journal(arguments.journal).values())
    unknown = {entry["promise"] for entry in entries} - PROMISES.keys()
    assert not unknown, unknown
    print(f"\n{time.monotonic() - started:.0f} s")
    print("\n".join(tally(entries)))
    if arguments.out:
        how = f"Of the code of commit `{commit()}`. " + (
            "The campaign was stopped before its end: what had been tried by then is counted."
            if arguments.write_only
            else f"With `--scale {arguments.scale:g}`; 1 is the whole campaign."
        )
        minutes = sum(entry["seconds"] for entry in entries) / 60
        arguments.out.write_text(document(entries, minutes, how))
        print(f"Wrote {arguments.out}.")
    return code if code != pytest.ExitCode.NO_TESTS_COLLECTED else 0


if __name__ == "__main__":
    sys.exit(main())
