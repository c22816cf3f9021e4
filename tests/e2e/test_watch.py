"""`ragsvc index --watch` as a real process over a real folder. It is waited for what must happen, however long."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.processes import Ragsvc, openai


class Watch:
    """A running `index --watch --json`."""

    def __init__(self, ragsvc: Ragsvc, folder: Path, *options: str) -> None:
        self.process = ragsvc.start("index", str(folder), "--watch", "--json", *options)
        self.rounds: list[Any] = [json.loads(self.process.stdout.readline())]
        line = self.process.stderr.readline()
        assert "watching" in line, line

    def until(self, *, added: str = "", removed: str = "", changed: str = "") -> None:
        """Read rounds until one has added, changed or removed the path."""
        while True:
            found = json.loads(self.process.stdout.readline())
            self.rounds.append(found)
            plan = found["plan"]
            if (added or changed) in (*plan["added"], *plan["changed"]) or removed in plan["removed"]:
                return

    def end(self) -> str:
        """Interrupt it; return what is left of stderr."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 130, err
        assert "Traceback" not in err, err
        return err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number:02}.md").write_text(f"# Part {number}\n\nThe pump {number} is primed with water.\n")
    return folder


@pytest.fixture
def ragsvc(folder, fake):
    """Its data lies inside the folder that it watches."""
    return Ragsvc(folder / "own data", openai(fake))


def test_a_folder_is_followed(ragsvc, folder, fake):
    """Saves by rename, bursts, new folders and deletions are indexed as they come; each text is sent once."""
    with Watch(ragsvc, folder) as watch:
        assert len(watch.rounds[0]["plan"]["added"]) == 25
        (folder / "00.md.tmp").write_text("# Part 0\n\nThe kettle whistles on Sundays.\n")
        (folder / "00.md.tmp").replace(folder / "00.md")
        watch.until(changed="00.md")
        (folder / "new" / "deep").mkdir(parents=True)
        for number in range(60):
            (folder / "new" / "deep" / f"{number}.md").write_text(f"# Burst {number}\n\nBurst number {number}.\n")
        before = len(watch.rounds)
        watch.until(added="new/deep/59.md")
        assert len(watch.rounds) - before <= 12
        (folder / "01.md").unlink()
        watch.until(removed="01.md")
        assert ragsvc.index(folder)["plan"]["unchanged"] == 84  # another run is free to look
        watch.end()
    assert not any(each["rejected"] for each in watch.rounds)
    hits = ragsvc.json("search", "kettle whistles", "--mode", "lexical")["hits"]
    assert [hit["path"] for hit in hits][:1] == ["00.md"]
    sent = [text for entry in fake.requests("embeddings") for text in entry.inputs]
    assert len(sent) == len(set(sent)) == 86


def test_a_vanished_folder_removes_nothing_and_is_followed_when_it_is_back(ragsvc, folder, tmp_path):
    """Moved away, emptied and brought back, the folder loses no document; afterwards changes are indexed again."""
    ragsvc = Ragsvc(tmp_path / "data", ragsvc.settings)
    with Watch(ragsvc, folder) as watch:
        folder.rename(tmp_path / "away")
        assert "does not exist" in watch.process.stderr.readline()
        folder.mkdir()
        assert "there is no file to index" in watch.process.stderr.readline()
        (folder / "lone.md").write_text("# Lone\n\nAlone.\n")
        assert "would be removed" in watch.process.stderr.readline()
        shutil.rmtree(folder)
        (tmp_path / "away").rename(folder)
        (folder / "late.md").write_text("# Late\n\nLate is better than never.\n")
        watch.until(added="late.md")
        watch.end()
    assert watch.rounds[-1]["plan"]["unchanged"] == 25
    assert all(each["plan"]["removed"] == [] for each in watch.rounds)


def test_a_quota_that_is_exhausted_ends_it(ragsvc, folder, fake):
    """The first run goes through; when the account is out of quota, it says so, is asked once, and exits 4."""
    with Watch(ragsvc, folder) as watch:
        asked = len(fake.requests("embeddings"))
        fake.embeddings.quota(times=-1)
        (folder / "more.md").write_text("# More\n\nMore of the same.\n")
        _, err = watch.process.communicate(timeout=60)
        assert watch.process.returncode == 4, err
        assert "quota" in err
        assert len(fake.requests("embeddings")) == asked + 1


def test_a_watch_can_not_be_dry_or_strict(ragsvc, folder):
    """What would never come to its end is refused: exit 2."""
    for option in ("--dry-run", "--strict"):
        assert "--watch" in ragsvc.run("index", str(folder), "--watch", option, code=2).stderr
