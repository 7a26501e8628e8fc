"""Commands as processes that are forked from one that has imported what they need.

A command of its own takes seconds to import TensorFlow; hundreds of kills want to be quicker. The
process here imports it, computes nothing and forks a process for every line that it reads: the
commands are what `mtseg-…` runs, and a SIGKILL ends them as it would end any.
"""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
}  # fmt: skip
"""Audit events by which a command changes a folder, beside opening a file to write it."""

CONNECTIONS = {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"}
"""Audit events of sockets; those of one machine's own processes have no address of numbers."""

MOST_SECONDS = 300


class Forked:
    """The process that forks commands; ends with the block.

    Args:
        shell: what a shell does before it becomes that process, such as `ulimit -v 8000000`; it
            has namespaces of mounts (and of networks, with `no_network`) of its own.
        no_network: without any route, not even to this machine.
        **environment: variables of its environment; None takes one away.
    """

    def __init__(self, shell=":", no_network=False, **environment):
        # Short, as sockets want it; what killed commands leave there goes with the block.
        self._temporary = tempfile.TemporaryDirectory(prefix="mtseg-", dir="/tmp")
        self._streams, self._count = tempfile.TemporaryDirectory(), 0
        here = [sys.executable, "-m", "tests.faults.forked_commands"]
        apart = ["unshare", "--map-root-user", "--mount", *(["--net"] if no_network else [])]
        is_plain = shell == ":" and not no_network
        command = [*apart, "sh", "-c", f'{shell} || exit 99\nexec "$@"', "sh", *here]
        both = {**os.environ, **environment}
        self._process = subprocess.Popen(
            here if is_plain else command,
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={name: value for name, value in both.items() if value is not None},
        )  # fmt: skip
        if self._process.stdout.readline() != "ready\n":
            self._process.stdin.close()
            self._process.stdout.close()
            code = self._process.wait()
            self._temporary.cleanup()
            self._streams.cleanup()
            assert not is_plain, f"{' '.join(here)} ended with code {code} before it was ready"
            pytest.skip(f"no namespace of its own can be had here for: {shell}")

    @property
    def temporary_dir(self):
        """The folder for temporary files of all commands."""
        return Path(self._temporary.name)

    def do(self, shell):
        """Runs shell commands where the commands are forked."""
        assert self._ask({"shell": shell}) == 0, shell

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
        self._temporary.cleanup()
        self._streams.cleanup()

    def start(self, argv, folder=None, before_change=None, prelude="", **environment):
        """Starts a command and goes on.

        Args:
            argv: the command's name, such as `train`, or the name of a module with a `main`, and
                its arguments.
            folder: the changes of files in here count; None counts none.
            before_change: kills it before that change of a file, from 0.
            prelude: Python that is run before the command, in its process.
            **environment: variables that are set for it alone.
        """
        self._count += 1
        streams = [f"{self._streams.name}/{self._count}.{name}" for name in ("out", "err")]
        for stream in streams:
            Path(stream).touch()
        job = {
            "argv": [str(a) for a in argv], "folder": folder and str(folder),
            "before_change": before_change, "streams": streams,
            "temporary": self._temporary.name, "prelude": prelude, "environment": environment,
        }  # fmt: skip
        return Started(self, self._ask(job), streams, argv)

    def _ask(self, job):
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def run(self, argv, folder, after_seconds=None, before_change=None):
        """Runs a command to its end, or kills it.

        Args:
            argv: the command's name, such as `train`, and its arguments.
            folder: the changes of files in here count.
            after_seconds: kills it after so many seconds.
            before_change: kills it before that change of a file, from 0.

        Returns:
            Exit code (negative: of a signal), standard output and error, seconds, and how many
            changes it has made where it came to its end; `connections` then lists those tried.
        """
        started = time.monotonic()
        command = self.start(argv, folder, before_change)
        if after_seconds is not None and not command.has_ended(after_seconds):
            command.kill()
        code, out, err = command.finish()
        seconds = time.monotonic() - started
        counted = folder / "changes"
        changes, self.connections = None, None
        if counted.exists():
            changes, self.connections = json.loads(counted.read_text())
            counted.unlink()
        return code, out, err, seconds, changes


class Started:
    """A command that `Forked.start` has begun."""

    def __init__(self, forked, pid, streams, argv):
        self._forked, self.pid, self._argv = forked, pid, argv
        self.stdout_path, self.stderr_path = map(Path, streams)
        self._watch = os.pidfd_open(pid)

    def has_ended(self, within_seconds=0.0):
        """Whether it ends within that time, which is waited."""
        return bool(select.select([self._watch], [], [], max(0, within_seconds))[0])

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)

    def finish(self):
        """Waits for its end: exit code (negative: of a signal), standard output and error."""
        if not self.has_ended(MOST_SECONDS):
            self.kill()
            raise AssertionError(f"{self._argv} takes longer than {MOST_SECONDS} s")
        os.close(self._watch)
        code = self._forked._ask({"wait": self.pid})
        wait_for_the_end_of_group(self.pid)
        return code, self.stdout_path.read_text(), self.stderr_path.read_text()


@functools.cache
def forked_as_users_do():
    """A process for the commands of all tests of this process, without a log level of its own."""
    forked = Forked(TF_CPP_MIN_LOG_LEVEL=None)
    atexit.register(forked.__exit__)
    return forked


def wait_for_the_end_of_group(group):
    """Fails if a process that the command began goes on without it."""
    for _ in range(600):  # workers that are still importing TensorFlow notice it when they have
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of {group} are left a minute after its end")


def _serve():
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax  # noqa: F401

        import mtseg.training.engines.jax_engine
        import mtseg.training.loop  # noqa: F401
    else:
        _import_commands()
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "shell" in job:
            print(subprocess.run(job["shell"], shell=True).returncode, flush=True)
            continue
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _run(**job)
        print(pid, flush=True)


def _import_commands():
    from mtseg.system.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    import mtseg.experiments.run
    import mtseg.models.loading
    import mtseg.prediction.pipeline
    import mtseg.records.writing
    import mtseg.serving.folder
    import mtseg.serving.remote_model  # noqa: F401


def _run(argv, folder, before_change, streams, temporary, prelude, environment):
    import importlib

    os.setpgid(0, 0)
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    count, connections = 0, []

    def watch(event, arguments):
        nonlocal count
        if event in CONNECTIONS:
            if event == "socket.getaddrinfo" or isinstance(arguments[1], tuple):
                connections.append(f"{event} {arguments[0 if 'addr' in event else 1]}")
            return
        if event == "open":
            path, _, flags = arguments
            is_change = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, is_change = (arguments or [None])[0], event in CHANGES
        if is_change and folder is not None and str(path).startswith(folder):
            if count == before_change:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(watch)
    command, *arguments = argv
    try:
        exec(prelude, {})
        module = command if "." in command else f"mtseg.cli.{command}"
        code = importlib.import_module(module).main(arguments)
    finally:
        if folder is not None:
            with open(f"{folder}/changes", "w") as file:
                json.dump([count, connections], file)
    sys.exit(code)


if __name__ == "__main__":
    _serve()
