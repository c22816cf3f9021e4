"""Starts clients in milliseconds, forked from a process with everything imported, and kills them where a test says.

A kill comes at the n-th named point (`indexes.failpoints`), at the n-th call of one system call (strace), or when some
time has passed.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Order:
    """What a client is to do, and where it dies."""

    folder: str
    witness: str
    seed: int | None = None
    """Of the script; None for the small one."""
    most: int | None = None
    """Steps that it does."""
    die_at: int = 0
    """The point at which it kills itself, 0 for none."""
    broken: str | None = None
    """A writer of `broken`."""
    traced: bool = False
    """Whether it waits for a tracer."""
    bad_disk: bool = False
    """Whether it expects that steps fail."""
    unreadable: bool = False
    """Whether it expects that reads fail, too."""
    most_bytes: int | None = None
    """Of any file; a write beyond is short, the next one fails."""
    most_files: int | None = None
    """That it may have open, besides those at its start."""
    work: str = "store"
    """A key of `WORK`."""


class Nursery:
    """Starts clients, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self, order: Order) -> int:
        self.process.stdin.write(f"{json.dumps(asdict(order))}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self) -> int:
        """Return the exit code of the client; one that failed by itself is an error of the test."""
        code = int(self.process.stdout.readline())
        assert code in (0, KILLED), f"the client ended with {code}; its error is on stderr"
        return code

    def run(self, order: Order) -> bool:
        """Return whether the client was killed at its point."""
        self.start(order)
        return self.ended() == KILLED

    def run_for(self, order: Order, seconds: float) -> bool:
        """Kill the client after `seconds`; return whether it was not done by then."""
        child = self.start(order)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            held = os.pidfd_open(child)  # its number may be another's when the time has passed
            try:
                time.sleep(seconds)
                signal.pidfd_send_signal(held, signal.SIGKILL)
            finally:
                os.close(held)
        return self.ended() == KILLED

    def run_traced(self, order: Order, *inject: str) -> bool:
        """Let strace inject faults (`pwrite64:signal=KILL:when=3`); return whether the client was killed."""
        calls = ",".join(fault.split(":")[0] for fault in inject)
        faults = [word for fault in inject for word in ("-e", f"inject={fault}")]
        return self._traced(order, ["-o", "/dev/null", "-e", f"trace={calls}", *faults]) == KILLED

    def trace(self, order: Order, calls: str, log: Path) -> list[str]:
        """Return the calls that the client makes, with the paths of their files."""
        assert self._traced(order, ["-y", "-s", "64", "-o", str(log), "-e", f"trace={calls}"]) == 0
        return log.read_text().splitlines()

    def _traced(self, order: Order, options: list[str]) -> int:
        child = self.start(order)
        assert self.process.stdout.readline() == "0\n"
        command = ["strace", "-f", "-qq", *options, "-p", str(child)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tracer:
            while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text() and tracer.poll() is None:
                time.sleep(0.001)
            time.sleep(0.005)  # it is seized; now it is stopped, and its calls are watched
            os.kill(child, signal.SIGUSR1)
            code = self.ended()
            tracer.wait()
        return code


def why_not_traced() -> str | None:
    """Return why system calls can't be made to fail here, None where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=chdir:error=EIO", "env", "-C", "/", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode == 0 or "Input/output error" not in tried.stderr:
        return f"strace may not trace or inject here: {tried.stderr.strip()[:200]}"
    return None


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Give a folder that waits for no disk, where there is one: a killed process leaves all it wrote, synced or not."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="faults-") as folder:
        yield Path(folder)


@contextmanager
def nursery(work: str = "store") -> Iterator[Nursery]:
    """Start the process that clients are forked from; `work` is what it imports for them, a key of `WORK`."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-m", "tests.faults.nursery", work]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process)
        process.stdin.close()


def _store(order: Order) -> None:
    from indexes import word_search
    from tests.faults import broken
    from tests.faults.client import Witness, read_witness, work, work_on_a_bad_disk
    from tests.faults.steps import drawn, small

    word_search.FEW_ROWS = -1  # few rows are no reason to ask FTS5 here
    if order.broken:
        broken.WRITERS[order.broken].break_it()
    script = small() if order.seed is None else drawn(order.seed)
    done = read_witness(Path(order.witness)).done
    witness = Witness(Path(order.witness))
    if order.bad_disk:
        begin(order)
        work_on_a_bad_disk(Path(order.folder), witness, script, unreadable=order.unreadable)
    else:
        begin(order)
        work(Path(order.folder), witness, done, script, order.most)


def _library(order: Order) -> None:
    from tests.faults.shelves import BROKEN, work

    if order.broken:
        BROKEN[order.broken][1]()
    begin(order)
    work(Path(order.folder), Path(order.witness), order.most)


WORK: Mapping[str, Callable[[Order], None]] = {"store": _store, "library": _library}
"""What a client can be told to do."""


def serve(work: str) -> None:
    """Fork a client for each line of orders."""
    with memory_folder() as folder:  # what is imported when it is first needed, is so once
        WORK[work](Order(str(folder / "data"), str(folder / "witness"), work=work))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.read(reading, 1)  # the child's number is said first
                live(Order(**json.loads(line)))
                code = 0
            except BaseException:  # noqa: BLE001 - of a child; its parent sees the code
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        say(child)
        os.write(writing, b"1")
        os.close(reading)
        os.close(writing)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def begin(order: Order) -> None:
    """Wait for the tracer, and take the limits, where there are to be such: what was opened before is spared."""
    if order.traced:
        say(0)  # ready
        signal.sigwait({signal.SIGUSR1})
    if order.most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.most_bytes, resource.RLIM_INFINITY))
    if order.most_files is not None:
        used = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + order.most_files, used + order.most_files))


def live(order: Order) -> None:
    """Run in the child."""
    from indexes import failpoints

    reached = 0

    def step(name: str) -> None:
        nonlocal reached
        reached += 1
        if reached == order.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if order.die_at:
        failpoints.install(step)
    WORK[order.work](order)


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
