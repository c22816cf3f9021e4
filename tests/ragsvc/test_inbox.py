"""Received bodies on the disk: durable, bounded, private, and gone when nobody wants them."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from ragsvc.errors import Overloaded, StorageFailed, UploadLost
from ragsvc.inbox import Inbox


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path / "data" / "uploads", 100, lambda: 0)


@pytest.fixture(autouse=True)
def data(tmp_path):
    (tmp_path / "data").mkdir()


def received(inbox: Inbox, *documents: bytes):
    delivery = inbox.open(sum(map(len, documents)))
    for number, document in enumerate(documents):
        delivery.begin(f"{number}.txt")
        delivery.write(document)
        delivery.end()
    delivery.seal()
    return delivery


def test_documents_come_back_as_they_were(inbox, tmp_path):
    """Several documents of one body are read back each by itself; folder and file are the owner's alone."""
    delivery = received(inbox, b"one", b"", b"three")
    assert delivery.hand_over(lambda: "job") == "job"
    assert [inbox.read(delivery.id, file) for file in delivery.files] == [b"one", b"", b"three"]
    folder = tmp_path / "data" / "uploads"
    assert [entry.name for entry in folder.iterdir()] == [delivery.id]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / delivery.id).stat().st_mode & 0o777 == 0o600


def test_other_bytes_are_never_given_out(inbox, tmp_path):
    """A body that is damaged, cut or gone is an error, not a document."""
    delivery = received(inbox, b"one")
    delivery.hand_over(lambda: None)
    path = tmp_path / "data" / "uploads" / delivery.id
    for damage in (b"eno", b"on", None):
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(UploadLost):
            inbox.read(delivery.id, delivery.files[0])


def test_what_is_promised_is_bounded_and_given_back(inbox):
    """Bodies under way count by what they announced; room comes back when they end, either way."""
    first, second = inbox.open(60), inbox.open(40)
    with pytest.raises(Overloaded):
        inbox.open(1)
    first.discard()
    second.hand_over(lambda: None)
    inbox.open(100).discard()


def test_a_body_is_either_handed_over_or_discarded(inbox, tmp_path):
    """What was handed over is not discarded; what was discarded, even while it is being handed over, makes no job."""
    kept = received(inbox, b"one")
    kept.hand_over(lambda: None)
    kept.discard()
    assert inbox.read(kept.id, kept.files[0]) == b"one"
    gone = received(inbox, b"two")
    gone.discard()
    gone.discard()
    with pytest.raises(StorageFailed):
        gone.hand_over(lambda: pytest.fail("a job without a body"))
    late = received(inbox, b"three")
    begun, end = threading.Event(), threading.Event()

    def slowly():
        begun.set()
        assert end.wait(10)

    thread = threading.Thread(target=late.hand_over, args=(slowly,))
    thread.start()
    assert begun.wait(10)
    discarding = threading.Thread(target=late.discard)
    discarding.start()
    end.set()
    thread.join()
    discarding.join()
    assert inbox.read(late.id, late.files[0]) == b"three"


def test_a_failed_acceptance_leaves_the_body_to_be_discarded(inbox, tmp_path):
    """Where no job could be made, the body goes with `discard`."""
    delivery = received(inbox, b"one")
    with pytest.raises(KeyError):
        delivery.hand_over(lambda: {}["no job"])
    delivery.discard()
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_a_dead_process_leaves_nothing_for_ever(inbox, tmp_path):
    """A body whose receiver was killed is swept; one that is being received, and one of a job, is not."""
    folder = tmp_path / "data" / "uploads"
    code = (
        "import os, signal, sys; from pathlib import Path; from ragsvc.inbox import Inbox\n"
        "delivery = Inbox(Path(sys.argv[1]), 100, lambda: 0).open(10); delivery.begin('a'); delivery.write(b'x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=60)
    assert len(list(folder.iterdir())) == 2
    job, under_way = received(inbox, b"job"), inbox.open(5)
    job.hand_over(lambda: None)
    assert inbox.sweep(lambda: {job.id}) == 1
    assert {entry.name.removesuffix(".lock") for entry in folder.iterdir()} == {job.id, under_way.id}
    under_way.discard()
    inbox.drop(job.id)
    assert list(folder.iterdir()) == []


def test_a_sweep_that_comes_between_does_not_refuse_a_body(inbox, tmp_path, monkeypatch):
    """A sweep that takes the lock of a body before its receiver does, and removes it, holds the receiver up at most."""
    monkeypatch.setattr("ragsvc.inbox.new_job_id", lambda: "job_known")
    folder = tmp_path / "data" / "uploads"
    folder.mkdir()
    sweeping = FileLock(folder / "job_known.lock", timeout=0, thread_local=False)
    sweeping.acquire()

    def end_the_sweep():
        inbox.drop("job_known")
        sweeping.release()

    timer = threading.Timer(0.1, end_the_sweep)
    timer.start()
    delivery = received(inbox, b"one")
    timer.join()
    assert inbox.sweep(set) == 0  # its lock is the one that counts
    delivery.hand_over(lambda: None)
    assert inbox.read("job_known", delivery.files[0]) == b"one"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """Where the system takes no more bytes the error is StorageFull, and the half of the body that came goes."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from ragsvc.inbox import Inbox\n"
        "from indexes.errors import StorageFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "delivery = Inbox(Path(sys.argv[1]), 10**6, lambda: 0).open(10**5); delivery.begin('a')\n"
        "try: delivery.write(b'x' * 10**5)\n"
        "except StorageFull: delivery.discard(); sys.exit(7)"
    )
    folder = tmp_path / "data" / "uploads"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=60)
    assert done.returncode == 7
    assert list(Path(folder).iterdir()) == []
