"""doctor, backup and restore with real processes, a server among them."""

import json
from pathlib import Path

from tests.e2e.processes import Ragsvc


def test_a_running_server_serves_what_was_restored(tmp_path: Path) -> None:
    """Backed up and restored by commands while a server runs: its next answer is from the old text, nothing is paid.

    The same document id leads to the restored document, uploads and deletes go on, and `doctor` finds nothing wrong.
    """
    folder, file = tmp_path / "docs", tmp_path / "kept.backup"
    folder.mkdir()
    (folder / "a.txt").write_text("Otters hold hands while they sleep.", encoding="utf-8")
    ragsvc = Ragsvc(tmp_path / "data")
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        [first] = server.search("otters")
        written = ragsvc.json("backup", str(file))
        assert (written["documents"], written["bytes"]) == (1, file.stat().st_size)
        (folder / "a.txt").write_text("Badgers dig at night.", encoding="utf-8")
        ragsvc.index(folder)
        assert "Badgers" in server.search("badgers")[0]["text"]
        assert "--replace" in ragsvc.run("restore", str(file), code=3).stderr
        restored = ragsvc.json("restore", str(file), "--replace")
        [hit] = server.search("otters")
        shown = ("document_id", "version", "text", "score", "path")
        assert {name: hit[name] for name in shown} == {name: first[name] for name in shown}
        assert (restored["replaced"], restored["new_ids"]) == (True, False)
        text = server.json("GET", f"/documents/{hit['document_id']}/text")
        assert text["text"] == "Otters hold hands while they sleep."
        (folder / "a.txt").write_text("Otters hold hands while they sleep.", encoding="utf-8")
        assert ragsvc.index(folder)["inputs"] == 0
        status, _, body = server.request("POST", "/documents?path=new.txt&wait=true", b"A new text on foxes.")
        assert status == 201, body
        assert json.loads(body)["documents"][0]["path"] == "new.txt"
        assert server.search("foxes")
        assert ragsvc.json("doctor")["consistent"]
        assert len(list((tmp_path / "data" / "collections").iterdir())) == 1


def test_doctor_says_by_its_exit_code_whether_something_is_wrong(tmp_path: Path) -> None:
    """0 for a healthy directory, 1 for damage, 0 once a repair has rebuilt what is derived, and after a restore."""
    folder, file = tmp_path / "docs", tmp_path / "kept.backup"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"Otters hold hands, number {number}.", encoding="utf-8")
    ragsvc = Ragsvc(tmp_path / "data", {"RAGSVC_DELTA_ROWS": "10"})
    ragsvc.index(folder)
    assert "nothing is inconsistent" in ragsvc.run("doctor").stdout
    ragsvc.run("backup", str(file))
    [store] = (tmp_path / "data" / "collections").glob("*/store.db")
    [segment] = (store.parent / "segments").iterdir()
    segment.write_bytes(b"x")
    said = ragsvc.run("doctor", code=1).stdout
    assert f"problem: default: segments/{segment.name}" in said
    assert "--repair" in said
    assert "repaired: default" in ragsvc.run("doctor", "--repair").stdout
    store.write_bytes(b"x" * 50_000)
    assert "ragsvc restore FILE" in ragsvc.run("doctor", "--repair", code=1).stdout
    ragsvc.run("restore", str(file), "--replace")
    assert ragsvc.json("doctor") == {
        "consistent": True,
        "checked": [{"place": "service.db", "findings": []}, {"place": "default", "findings": []}],
    }
    ragsvc.run("doctor", "--collection", "none", code=3)
    assert ragsvc.index(folder)["inputs"] == 0


def test_a_data_directory_that_is_not_there_is_not_made(ragsvc: Ragsvc, tmp_path: Path) -> None:
    """A misspelt or unmounted directory neither passes for one that is whole, nor its backup for a backup."""
    for said in ("there is no data directory", "holds no data"):
        assert said in ragsvc.run("doctor", code=3).stderr
        assert said in ragsvc.run("backup", str(tmp_path / "kept"), code=3).stderr
        assert not (tmp_path / "kept").exists()
        ragsvc.data_dir.mkdir(exist_ok=True)
    assert list(ragsvc.data_dir.iterdir()) == []
