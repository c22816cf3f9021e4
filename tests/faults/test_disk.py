"""The disk is full, fails, or is read-only, at each call of a workload; or no descriptor is left.

The step fails with StorageFull and nothing else, changes nothing, and the same process goes on reading; once the fault
is gone the same step is done. Where the fault stays, the next process goes on to the end of an undisturbed run.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import check, check_end
from tests.faults.client import read_witness
from tests.faults.nursery import Nursery, Order, memory_folder, nursery, why_not_traced
from tests.faults.tally import Tally
from tests.faults.trials import Bench, until_not_reached

NOT_TRACED = why_not_traced()
traced = pytest.mark.skipif(NOT_TRACED is not None, reason=str(NOT_TRACED))
FAULTS = (
    *(("pwrite64", error, 37) for error in ("error=ENOSPC", "error=EIO", "error=EROFS", "retval=0")),
    *(("write", error, 2) for error in ("error=ENOSPC", "error=EIO", "error=EROFS")),
    *(("ftruncate", error, 2) for error in ("error=ENOSPC", "error=EIO")),
    *(("fsync", error, 3) for error in ("error=ENOSPC", "error=EIO")),
    *(("fdatasync", error, 5) for error in ("error=ENOSPC", "error=EIO")),
    *(("openat", error, 11) for error in ("error=ENOSPC", "error=EROFS", "error=EMFILE", "error=EIO")),
    *(("mkdir", error, 2) for error in ("error=ENOSPC", "error=EROFS")),
    *(("rename", error, 1) for error in ("error=ENOSPC", "error=EROFS", "error=EIO")),
    *(("unlink", error, 3) for error in ("error=EROFS", "error=EIO")),
    ("pread64", "error=EIO", 29),
)
"""Call, what becomes of it, and every how many are tried in the normal suite. `EROFS` is also the answer of a disk that
has met an error and lets nothing be written any more; `retval=0`: nothing was written, and that is said."""
EVERY = [pytest.param(*fault, id=f"{fault[0]}-{fault[1]}") for fault in FAULTS]


@pytest.fixture(scope="module")
def clients() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


@pytest.fixture
def bench(clients, record_property, request) -> Iterator[Bench]:
    tally = Tally(request.node.name)
    with memory_folder() as room:
        yield Bench(clients, room, tally)
    record_property("faults", tally.told())


def trial(bench: Bench, order: Order, *inject: str) -> int:
    """Let a run meet faults, check what it left, complete it without any; return how many steps failed."""
    folder, witness = Path(order.folder), Path(order.witness)
    if inject:
        assert not bench.clients.run_traced(order, *inject)
    else:
        assert not bench.clients.run(order)
    failed = read_witness(witness).failed
    found = check(folder, witness, bench.script) if folder.exists() else []
    # The faults of a disk are not the machine's: limits and tracer are gone for the next process.
    plain = Order(order.folder, order.witness)
    assert not bench.clients.run(plain)
    found += check_end(folder, witness, bench.script, bench.undisturbed, same_segments=False)
    bench.tally.add([kind for kind, _ in found])
    bench.tally.found += [(kind, f"{said} ({inject} {order})") for kind, said in found]
    shutil.rmtree(folder.parent)
    return failed


def calls_of(bench: Bench, call: str) -> int:
    """Return how often a run makes a call which nobody disturbs."""
    order = bench.order(traced=True, bad_disk=True)
    return len(bench.clients.trace(order, call, Path(order.folder).with_name("calls")))


def faults_at(bench: Bench, call: str, fault: str, stride: int, *, stays: bool) -> int:
    """Let the calls 1, 1 + stride, ... fail, each in a run of its own; return how many steps failed in all."""
    failed = 0
    for n in range(1, calls_of(bench, call) + 1, stride):
        order = bench.order(traced=True, bad_disk=True, unreadable=call == "pread64")
        failed += trial(bench, order, f"{call}:{fault}:when={n}{'+' if stays else ''}")
    assert bench.tally.found == []
    return failed


@traced
@pytest.mark.parametrize(("call", "fault", "stride"), EVERY)
def test_a_fault_that_comes_once(bench, call, fault, stride):
    """One call fails: its step fails typed and is undone, reads go on, and the same step then succeeds."""
    assert faults_at(bench, call, fault, stride, stays=False) > 0


@traced
def test_a_folder_that_can_not_be_opened(bench):
    """The same each time that a folder is opened, to be listed or synced: no descriptor is left."""
    order = bench.order(traced=True, bad_disk=True)
    lines = bench.clients.trace(order, "openat", Path(order.folder).with_name("calls"))
    calls, numbers = Counter[str](), set[int]()
    for line in lines:  # strace counts the calls of each thread
        thread = line.split()[0]
        calls[thread] += 1
        if "O_DIRECTORY" in line:
            numbers.add(calls[thread])
    assert len(numbers) > 10
    for n in sorted(numbers):
        trial(bench, bench.order(traced=True, bad_disk=True), f"openat:error=EMFILE:when={n}")
    assert bench.tally.found == []


STAYING = [fault for fault in EVERY if "retval" not in fault.id]


@traced
@pytest.mark.parametrize(("call", "fault", "stride"), STAYING)
def test_a_fault_that_stays(bench, call, fault, stride):
    """From one call on all fail: steps fail typed, reads go on, and the next process does what is left."""
    assert faults_at(bench, call, fault, 3 * stride, stays=True) > 0


@traced
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("call", "fault", "stride"), EVERY)
def test_a_fault_that_comes_once_at_every_call(bench, call, fault, stride):
    """The same at every call in turn."""
    assert faults_at(bench, call, fault, 1, stays=False) > 0


@traced
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("call", "fault", "stride"), STAYING)
def test_a_fault_that_stays_from_many_calls_on(bench, call, fault, stride):
    """The same from every call on; from every sixth of those that are made by the hundred."""
    assert faults_at(bench, call, fault, max(1, stride // 6), stays=True) > 0


@pytest.mark.parametrize("most_bytes", [0, 5_000, 16_384, 40_000, 100_001, 200_000, 333_333])
def test_short_writes(bench, most_bytes):
    """No file may grow beyond a limit: the write that reaches it is short, the next one fails, and nothing is lost."""
    assert trial(bench, bench.order(bad_disk=True, most_bytes=most_bytes)) > 0
    assert bench.tally.found == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_short_writes_of_every_length(bench):
    """The same for limits all over the pages of the store and of its log, while there is a file that reaches them."""
    assert until_not_reached(lambda n: trial(bench, bench.order(bad_disk=True, most_bytes=4099 * n)) > 0) > 100
    assert bench.tally.found == []


@pytest.mark.parametrize("most_files", range(8))
def test_no_descriptor_is_left(bench, most_files):
    """A process that may open few files: steps fail typed, what could be opened is read on."""
    trial(bench, bench.order(bad_disk=True, most_files=most_files))
    assert bench.tally.found == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 32 MB, where one may be mounted: the script takes 4 of them."""
    with memory_folder() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)  # maps of its files may live a moment longer


def test_a_disk_that_is_really_full(bench, small_disk):
    """A real small disk is filled up while the script runs, in many sizes of what is left: as where calls fail."""
    for left in range(0, 3200, 160):
        order = replace(bench.order(bad_disk=True), folder=str(small_disk / "room" / "collection"))
        Path(order.folder).parent.mkdir()
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1024 * left))
        assert not bench.clients.run(order)
        failed = read_witness(Path(order.witness)).failed
        ballast.unlink()
        found = check(Path(order.folder), Path(order.witness), bench.script) if Path(order.folder).exists() else []
        assert not bench.clients.run(Order(order.folder, order.witness))
        found += check_end(
            Path(order.folder), Path(order.witness), bench.script, bench.undisturbed, same_segments=False
        )
        bench.tally.add([kind for kind, _ in found])
        bench.tally.found += found
        shutil.rmtree(Path(order.folder).parent)
        assert failed or left > 1500
    assert bench.tally.found == []
