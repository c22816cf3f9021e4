"""Processes under measurement: the stand-in for OpenAI, and what a process has used of CPU and memory (Linux)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that printed its URL."""

    url: str
    pid: int


@contextmanager
def module(name: str, *arguments: str) -> Iterator[Spawned]:
    """Run a module of this repository that prints its URL first; it is told to end afterwards."""
    command = [sys.executable, "-m", name, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"{name} did not start")
            yield Spawned(url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory(pid: int) -> dict[str, float]:
    """Return resident, proportional, private and peak memory in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    rollup = {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)}
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    return {"rss": rollup["Rss"], "pss": rollup["Pss"], "private": private, "peak": peak}
