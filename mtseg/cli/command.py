"""What all commands share: exit codes, error lines, and output that survives a closed terminal.

The module of a command builds its parser and defines one function that takes the arguments and
returns an exit code; `run` calls that function.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import dataclasses
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from mtseg import __version__
from mtseg.errors import InputError, WorkerLostError

if TYPE_CHECKING:
    from mtseg.tasks.label_space import LabelSpace

DONE, DEFECT, BAD_INPUT, SOME_FAILED, WITHHELD, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes of every command: 1 is an error in mtseg itself, 3 means that some of several inputs
failed or another machine was lost. 4 means that `mtseg-predict --strict` withheld labels."""


PREFIX = contextvars.ContextVar("PREFIX", default="mtseg-")
"""What stands before a command's name in its help: `mtseg ` if it was called in that way."""


class Parser(argparse.ArgumentParser):
    """A parser of a command: wrong usage is one line, and a misspelt option is recognised.

    Args:
        name: of the command, such as `predict`.
        **how: as for `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, **how: Any) -> None:
        super().__init__(prog=f"{PREFIX.get()}{name}", **how)
        self.add_argument(
            "--version",
            action="version",
            version=f"mtseg {__version__}",
            help="print the version and exit",
        )

    def parse_args(  # type: ignore[override]
        self, args: list[str], namespace: None = None
    ) -> argparse.Namespace:
        """Parses arguments; an unknown option is refused before a missing argument."""
        known = [*self._option_string_actions]
        for text in args[: args.index("--") if "--" in args else None]:
            flag = text.split("=")[0]
            if flag.startswith("--") and not any(name.startswith(flag) for name in known):
                meant = find_similar(flag, known)
                self.error(f"{flag}: no such option.{meant or f' See {self.prog} --help.'}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits."""
        if message.startswith("the following arguments are required"):
            message += f". See {self.prog} --help."
        print_error(message)
        self.exit(BAD_INPUT)


def find_similar(text: str, known: Iterable[str]) -> str:
    """A question that names what was probably meant; empty if nothing is similar."""
    similar = difflib.get_close_matches(text, list(known), n=1)
    return f" Did you mean {similar[0]}?" if similar else ""


def run(command: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """Runs a command and turns expected errors into one line and an exit code.

    Args:
        command: takes the arguments and returns the exit code.
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: that of the command, or `BAD_INPUT`, `SOME_FAILED` or `INTERRUPTED`.
    """
    with _guarded_output():
        try:
            return command(sys.argv[1:] if argv is None else argv)
        except InputError as error:
            print_error(error)
            return BAD_INPUT
        except OSError as error:  # of a path that is not missing, and yet cannot be looked at
            if error.filename is None or error.errno not in (errno.EACCES, errno.ENAMETOOLONG):
                raise
            print_error(f"{error.filename}: cannot be used ({error.strerror}). Give another path.")
            return BAD_INPUT
        except WorkerLostError as error:
            print_error(error)
            return SOME_FAILED
        except KeyboardInterrupt:
            print("interrupted: rerun the command to resume.", file=sys.stderr)
            return INTERRUPTED


@contextlib.contextmanager
def _guarded_output() -> Iterator[None]:
    """Makes prints harmless if nobody reads them any more, so that the work is completed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Output(sys.stdout), _Output(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # A stream that was closed from the beginning stays silent.
        sys.stdout, sys.stderr = (
            now if there is None else there
            for there, now in zip(before, (sys.stdout, sys.stderr), strict=True)
        )


_OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys in place of showing them; a file's name may have them."""


class _Output:
    """A stream that becomes silent when it can no longer be written, for example a closed pipe."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Writes like `io.TextIOBase.write`."""
        shown = _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)
        try:
            self._stream.write(shown)
        except UnicodeEncodeError:  # a terminal that cannot show all letters of a file's name
            encoding = self._stream.encoding or "ascii"
            self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        except OSError:  # nobody reads, the terminal is gone, the disk is full
            self._silence()
        return len(text)

    def flush(self) -> None:
        """Flushes like `io.IOBase.flush`."""
        try:
            self._stream.flush()
        except OSError:  # nobody reads, the terminal is gone, the disk is full
            self._silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _silence(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def print_error(message: object) -> None:
    """Prints an error on one line, even if it contains a file name with a line break."""
    print(f"error: {message}".replace("\n", "\\n"), file=sys.stderr)


def add_part_flags(parser: argparse._ArgumentGroup) -> None:
    """Adds the flags of a command whose work several jobs may share."""
    parser.add_argument(
        "--num-parts",
        type=positive,
        default=1,
        metavar="N",
        help="number of jobs (default: %(default)s)",
    )
    parser.add_argument(
        "--part-id",
        type=whole,
        default=0,
        metavar="N",
        help="number of this job, counted from 0 (default: %(default)s)",
    )


def whole(text: str) -> int:
    """Reads a whole number; a `type` for argparse."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def number(text: str) -> float:
    """Reads a number; a `type` for argparse."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def positive(text: str) -> int:
    """Reads a whole number above 0; a `type` for argparse."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def not_negative(text: str) -> int:
    """Reads a whole number of at least 0; a `type` for argparse."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def add_bids_filter(parser: argparse.ArgumentParser) -> None:
    """Adds `--bids-filter`, which `mtseg.tasks.file_choice.with_entity_filter` reads."""
    parser.add_argument(
        "--bids-filter",
        metavar="FILTER",
        help="entities that choose among the files of a BIDS data set, such as run=1,desc=aseg",
    )


def print_doubts(label_space: LabelSpace) -> None:
    """Prints what the users' own task files say that is probably not meant."""
    from mtseg.tasks.task_file import describe_doubts

    for selection in label_space.selections:
        for doubt in describe_doubts(selection.task):
            print(f"note: {doubt}", file=sys.stderr)


def require_named_sources(label_space: LabelSpace, data_dir: str) -> None:
    """Refuses phantoms that nobody asked for where there are records of real scans.

    Args:
        label_space: tasks as a user named them.
        data_dir: folder of prepared records.

    Raises:
        InputError: if a task was named without a source, its default is phantoms, and the folder
            has records of another of its sources.
    """
    from mtseg.records.prepared import records_dir
    from mtseg.tasks.task_file import GENERATED

    for selection in label_space.selections:
        if not selection.is_default or selection.sources != (GENERATED,):
            continue
        task = selection.task
        folder = records_dir(data_dir, task.name, GENERATED, "volumes").parent.parent
        described = folder.glob("*_*/*/dataset_info.json")
        sources = {path.parts[-3].rpartition("_")[0] for path in described} - {GENERATED}
        if sources:
            name = task.own_file or task.name
            choices = [f"{name}:{source}" for source in (*sorted(sources), GENERATED)]
            raise InputError(
                f"task {task.name}: {data_dir} has records of {', '.join(sorted(sources))}, but no "
                f"source is named, which means phantoms. Name one: {' or '.join(choices)}."
            )


def add_devices_flag(parser: argparse._ActionsContainer) -> None:
    """Adds `--devices`; `start_tensorflow` takes its value."""
    parser.add_argument(
        "--devices",
        metavar="N",
        help="GPUs to use: how many, or their numbers with a comma (0,3 or 1,), or cpu for none "
        "(default: all that the command can use)",
    )


def add_engine_flag(parser: argparse._ActionsContainer) -> None:
    """Adds `--engine`; `start_engine` takes its value."""
    from mtseg.inference.engines.choice import ENGINES

    parser.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="what computes; auto: OpenVINO if it can, else TensorFlow (default: %(default)s)",
    )


def start_tensorflow(devices: str | None, *, is_one: bool = True) -> None:
    """Imports TensorFlow, chooses its devices and prints in one line what will compute.

    Args:
        devices: the value of `--devices`.
        is_one: whether only one GPU computes.

    Raises:
        InputError: if there are no such devices, or TensorFlow is not installed.
    """
    from mtseg.system.devices import choose_devices, describe_devices
    from mtseg.system.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    choose_devices(devices, is_one=is_one)
    print(f"Computing on {describe_devices(are_all=not is_one)}.", flush=True)


def start_engine(
    model: str | list[str] | None, wanted: str, devices: str | None, precision: str | None = None
) -> str:
    """Starts what computes a model, prints it in one line, and returns its name.

    Args:
        model: folder of the model, or those of an ensemble; None is the one that comes with mtseg.
        wanted: the value of `--engine`.
        devices: the value of `--devices`.
        precision: of the convolutions, if it was named.

    Raises:
        InputError: if there is no such model, engine or device.
    """
    from mtseg.inference.engines.choice import TITLES
    from mtseg.models.ensembles import find_engine_of
    from mtseg.system.hardware import describe_processor

    engine = find_engine_of(model, None if wanted == "auto" else wanted, devices, precision)
    if engine == "tensorflow":
        start_tensorflow(devices)
    else:
        print(f"Computing with {TITLES[engine]} on {describe_processor()}.", flush=True)
    return engine


def add_beam_flags(parser: argparse._ActionsContainer, verb: str) -> None:
    """Adds `--beam-runner` and `--beam-option`; `verb` says what runs there."""
    parser.add_argument(
        "--beam-runner",
        metavar="NAME",
        help=f"{verb} on the workers of an Apache Beam runner, such as FlinkRunner",
    )
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of the Beam runner, as in --beam-option=--NAME=VALUE; may be repeated",
    )


def check_beam_flags(arguments: argparse.Namespace) -> None:
    """Refuses options for a Beam runner if none is given.

    Raises:
        InputError: if so.
    """
    if arguments.beam_option and arguments.beam_runner is None:
        raise InputError("--beam-option: is for --beam-runner. Give both, or leave it out.")


@dataclasses.dataclass(frozen=True)
class Tally:
    """The scans that a command must name at its end, by what became of them.

    Attributes:
        failed: could not be segmented.
        warned: have a warning.
        withheld: have no label file because of it, by this command or one before.
    """

    failed: list[str] = dataclasses.field(default_factory=list)
    warned: list[str] = dataclasses.field(default_factory=list)
    withheld: list[str] = dataclasses.field(default_factory=list)

    def add(self, scan: str, has_warning: bool, is_withheld: bool) -> None:
        """Counts a scan that was segmented."""
        if has_warning:
            self.warned.append(scan)
        if is_withheld:
            self.withheld.append(scan)

    def sum_up(self, num_scans: int) -> int:
        """Prints the scans and chooses the exit code: failed scans come before withheld labels."""
        for what, scans in (
            ("failed", self.failed),
            ("have a WARNING", self.warned),
            ("have no label file, because of a warning (--strict)", self.withheld),
        ):
            if scans:
                names = ", ".join(scans)
                print(f"{len(scans)} of {num_scans} scans {what}: {names}", file=sys.stderr)
        if num_scans and len(self.failed) == num_scans:
            return BAD_INPUT
        if self.failed:
            return SOME_FAILED
        return WITHHELD if self.withheld else DONE
