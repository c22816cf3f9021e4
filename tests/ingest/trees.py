"""A folder that changes at random, as people and programs change folders; the same seed makes the same changes."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

_CHINESE = "索引保存全部向量查询只返回存在的文档一个删除了的文件不会再被找到重新命名不花钱，。"
_SUFFIXES = (".md", ".txt", ".md", ".txt", ".html", ".csv", ".py", ".json", ".rst")
_OLD = 1_600_000_000
"""Seconds since 1970: what is as old as that is trusted by its size, time and inode."""


class Tree:
    """A folder under change. Nothing in it is empty or unreadable: such files keep what was indexed before."""

    def __init__(self, root: Path, files: int, seed: int) -> None:
        self.root = root
        self._rng = random.Random(seed)
        syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
        self.words = ["".join(self._rng.choices(syllables, k=self._rng.randint(1, 3))) for _ in range(1500)]
        self._kept: list[bytes] = []
        """Contents of former times, to which a file may go back."""
        self.changes: tuple[Callable[[], None], ...] = (
            *(self.edit, self.edit, self.edit, self.rewrite, self.revert, self.add, self.delete, self.copy),
            *(self.rename, self.rename, self.move, self.swap, self.save_by_rename, self.touch),
            *(self.file_becomes_folder, self.folder_becomes_file, self.move_folder, self.other_suffix),
        )
        root.mkdir(parents=True)
        for number in range(files):
            path = root / f"part-{number // 40}" / f"{number:05}{self._rng.choice(_SUFFIXES)}"
            path.parent.mkdir(exist_ok=True)
            self._write(path, self._text(path.suffix))
            if number % 3:
                os.utime(path, (_OLD, _OLD + number))

    def change(self) -> str:
        """Change something; return what was done."""
        chosen = self._rng.choice(self.changes)
        chosen()
        return chosen.__name__

    def files(self) -> list[Path]:
        """Return all files."""
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def folders(self) -> list[Path]:
        """Return the folders that hold something."""
        return sorted({path.parent for path in self.files()} - {self.root})

    def edit(self) -> None:
        """Insert, replace or take out a few words somewhere."""
        path = self._file()
        text = path.read_text(encoding="utf-8")
        at = self._rng.randrange(len(text))
        gone = self._rng.choice((0, 0, 15))
        kept = text[:at] + self._rng.choice((f" {self._sentence()} ", "", "x")) + text[at + gone :]
        self._write(path, kept if kept.strip() else self._text(path.suffix))

    def rewrite(self) -> None:
        """Give a file another text altogether."""
        path = self._file()
        self._write(path, self._text(path.suffix))

    def revert(self) -> None:
        """Give a file a text of former times, of whichever file."""
        if self._kept:
            self._file().write_bytes(self._rng.choice(self._kept))

    def add(self) -> None:
        """Make a file, perhaps in a new folder."""
        folder = self._rng.choice(self.folders())
        folder = folder / self._word() if self._rng.random() < 0.3 else folder
        path = self._free(folder, self._rng.choice(_SUFFIXES))
        folder.mkdir(exist_ok=True)
        self._write(path, self._text(path.suffix))

    def delete(self) -> None:
        """Remove one file."""
        self._file().unlink()

    def copy(self) -> None:
        """Copy a file, its times included, to a new name or over another file."""
        source = self._file()
        target = self._free(source.parent, source.suffix) if self._rng.random() < 0.7 else self._file()
        if source != target:
            shutil.copy2(source, target)

    def rename(self) -> None:
        """Give a file another name in its folder."""
        path = self._file()
        path.rename(self._free(path.parent, path.suffix))

    def move(self) -> None:
        """Move a file to another folder under its name."""
        path, folder = self._file(), self._rng.choice(self.folders())
        if not (folder / path.name).exists():
            path.rename(folder / path.name)

    def swap(self) -> None:
        """Swap two files' names."""
        one, other = self._file(), self._file()
        aside = self._free(self.root, ".tmp")
        one.rename(aside)
        if other.exists():
            other.rename(one)
        aside.rename(other)

    def save_by_rename(self) -> None:
        """Save as editors do: a file beside, renamed over the old one."""
        path = self._file()
        beside = self._free(path.parent, ".tmp")
        beside.write_text(path.read_text(encoding="utf-8") + f"\n{self._sentence()}\n", encoding="utf-8")
        beside.replace(path)

    def touch(self) -> None:
        """Change a file's time and nothing else."""
        os.utime(self._file(), (_OLD, _OLD + self._rng.randrange(10_000)))

    def file_becomes_folder(self) -> None:
        """Put a folder in a file's place, with the file in it or a new one."""
        path = self._file()
        data = path.read_bytes()
        path.unlink()
        path.mkdir()
        inner = path / f"inner{path.suffix}"
        if self._rng.random() < 0.5:
            inner.write_bytes(data)
        else:
            self._write(inner, self._text(path.suffix))

    def folder_becomes_file(self) -> None:
        """Put a file in a small folder's place."""
        small = [folder for folder in self.folders() if len(list(folder.rglob("*"))) <= 4]
        if small:
            folder = self._rng.choice(small)
            shutil.rmtree(folder)
            self._write(folder, self._text(folder.suffix))

    def move_folder(self) -> None:
        """Move a folder, with all that is in it, into another one or to a new name."""
        folder, into = self._rng.choice(self.folders()), self._rng.choice([self.root, *self.folders()])
        target = self._free(into, "")
        if not target.is_relative_to(folder) and len(target.relative_to(self.root).parts) < 8:
            folder.rename(target)

    def other_suffix(self) -> None:
        """Give a file the suffix of another format: another reader reads it."""
        path = self._file()
        if path.suffix in (".md", ".txt"):
            target = path.with_suffix(".md" if path.suffix == ".txt" else ".txt")
            if not target.exists():
                path.rename(target)

    def _file(self) -> Path:
        return self._rng.choice(self.files())

    def _free(self, folder: Path, suffix: str) -> Path:
        while (path := folder / f"{self._word()}-{self._rng.randrange(1000)}{suffix}").exists():
            pass
        return path

    def _word(self) -> str:
        return self._rng.choice(self.words)

    def _sentence(self) -> str:
        if self._rng.random() < 0.1:
            return "".join(self._rng.choices(_CHINESE, k=30)) + "。"
        return " ".join(self._rng.choices(self.words, k=self._rng.randint(4, 12))).capitalize() + "."

    def _text(self, suffix: str) -> str:
        paragraphs = [" ".join(self._sentence() for _ in range(4)) for _ in range(self._rng.randint(1, 5))]
        if suffix == ".md":
            return "\n\n".join(f"{'#' * (1 + n % 3)} {self._word()}\n\n{each}" for n, each in enumerate(paragraphs))
        return "\n\n".join(paragraphs)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        if len(self._kept) < 200:
            self._kept.append(text.encode())
        else:
            self._kept[self._rng.randrange(200)] = text.encode()
