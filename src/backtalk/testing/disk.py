"""What a disk may hold after the power has gone, worked out from a record of what was done to it.

`recorder.c` writes down what a server does to the files of one folder; `record_of` starts it. A `Disk` replays the
record, as strictly as POSIX allows:

- The content of a file is what it was at its last fsync (or fdatasync). Of each later write or truncation nothing may be
  there, or all of it, or, of a write, a run of its sectors; the file may have grown for it or not.
- A name is in its folder, or gone from it, once the folder was synced after that. Until then both may be. A rename is
  done or not.
"""

import contextlib
import os
import platform
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

if sys.platform != "win32":
    import fcntl

SECTOR = 512
"""Bytes that a disk writes in full or not at all."""
_HEAD = struct.Struct("=cQQII")
_VOLATILE = "-shm"
"""How files end that SQLite shares between processes and makes anew after a crash."""

Fate: TypeAlias = Literal["dropped", "kept", "torn"]
Dice: TypeAlias = Callable[[], Fate]


class Entry(NamedTuple):
    """One record. `place` is the offset of a write or the size of a truncated file; `target` is of a rename."""

    operation: str
    inode: int
    place: int
    data: bytes
    target: bytes


class Change(NamedTuple):
    """A write to a file, or its truncation, which has no data."""

    place: int
    data: bytes | None


class Node:
    """A file or a folder. `names` are those a program sees, `synced_names` those that the disk has for certain."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.changes: list[Change] = []
        self.names: dict[str, Node] = {}
        self.synced_names: dict[str, Node] = {}
        self.is_folder = False


class Move(NamedTuple):
    """A node that comes to a name, leaves one, or both."""

    node: Node
    source: tuple[Node, str] | None
    target: tuple[Node, str] | None

    def touches(self, folder: Node) -> bool:
        return any(place is not None and place[0] is folder for place in (self.source, self.target))


class Disk:
    """A folder, of which an empty beginning and every change since then are known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = Node()
        self._root.is_folder = True
        self._nodes = {folder.stat().st_ino: self._root}
        self._moves: list[Move] = []

    def apply(self, entry: Entry) -> None:
        """Replays one record."""
        match entry.operation:
            case "c" | "d":
                self._create(entry)
            case "w":
                self._node(entry).changes.append(Change(entry.place, entry.data))
            case "t":
                self._node(entry).changes.append(Change(entry.place, None))
            case "s":
                self._sync(self._node(entry))
            case "r":
                self._move(self._place(entry.data), self._place(entry.target))
            case "u":
                self._move(self._place(entry.data), None)
            case other:
                raise ValueError(f"the record holds an unknown operation: {other!r}")

    def rebuild(self, folder: Path, dice: Dice, chance: random.Random) -> None:
        """Makes the folder be what the disk may hold now. `dice` decides about each thing that was not synced."""
        names = {node: dict(node.synced_names) for node in self._known()}
        for move in self._moves:
            if dice() == "kept":
                _apply_move(move, names)
        self._write(self._root, folder, names, dice, chance)

    def _write(
        self, node: Node, path: Path, names: dict[Node, dict[str, Node]], dice: Dice, chance: random.Random
    ) -> None:
        if not node.is_folder:
            path.write_bytes(_content(node, dice, chance))
            return
        path.mkdir(mode=0o700, exist_ok=True)
        for name, child in names[node].items():
            if not name.endswith(_VOLATILE):
                self._write(child, path / name, names, dice, chance)

    def _known(self) -> set[Node]:
        """Also those whose inodes have gone to others since."""
        folders = {place[0] for move in self._moves for place in move[1:] if place}
        return {self._root, *self._nodes.values(), *(move.node for move in self._moves), *folders}

    def _node(self, entry: Entry) -> Node:
        return self._nodes[entry.inode]

    def _create(self, entry: Entry) -> None:
        node = self._nodes[entry.inode] = Node()
        node.is_folder = entry.operation == "d"
        folder, name = target = self._place(entry.data)
        folder.names[name] = node
        self._moves.append(Move(node, None, target))

    def _move(self, source: tuple[Node, str], target: tuple[Node, str] | None) -> None:
        node = source[0].names.pop(source[1])
        if target:
            target[0].names[target[1]] = node
        self._moves.append(Move(node, source, target))

    def _sync(self, node: Node) -> None:
        for change in node.changes:
            _change(node.synced, change)
        node.changes.clear()
        if node.is_folder:
            self._sync_names(node)

    def _sync_names(self, folder: Node) -> None:
        """A rename between folders is one thing: it takes along what else is known of the node."""
        moved = {move.node for move in self._moves if move.touches(folder)}
        names = {place[0]: place[0].synced_names for move in self._moves for place in move[1:] if place}
        for move in [move for move in self._moves if move.node in moved]:
            _apply_move(move, names)
        self._moves = [move for move in self._moves if move.node not in moved]

    def _place(self, path: bytes) -> tuple[Node, str]:
        """A path's folder, as programs see it, and the name in there."""
        *folders, name = Path(os.fsdecode(path)).relative_to(self._folder).parts
        node = self._root
        for folder in folders:
            node = node.names[folder]
        return node, name


def _apply_move(move: Move, names: dict[Node, dict[str, Node]]) -> None:
    if move.source and names[move.source[0]].get(move.source[1]) is move.node:
        del names[move.source[0]][move.source[1]]
    if move.target:
        names[move.target[0]][move.target[1]] = move.node


def _content(node: Node, dice: Dice, chance: random.Random) -> bytearray:
    content = bytearray(node.synced)
    for change in node.changes:
        fate = dice()
        if fate == "kept":
            _change(content, change)
        elif fate == "torn" and change.data:
            _tear(content, change.place, change.data, chance)
    return content


def _change(content: bytearray, change: Change) -> None:
    if change.data is None:
        del content[change.place :]
        _grow(content, change.place)
    else:
        _grow(content, change.place)
        content[change.place : change.place + len(change.data)] = change.data


def _tear(content: bytearray, place: int, data: bytes, chance: random.Random) -> None:
    """A run of the write's sectors arrives. Its size may have arrived all the same."""
    end = place + len(data)
    sectors = range(place // SECTOR, -(-end // SECTOR))
    first, last = sorted(chance.sample(range(sectors.start, sectors.stop + 1), 2))
    start, stop = max(first * SECTOR, place), min(last * SECTOR, end)
    _change(content, Change(start, data[start - place : stop - place]))
    if chance.random() < 0.5:
        _grow(content, end)


def _grow(content: bytearray, size: int) -> None:
    content.extend(bytes(max(size - len(content), 0)))


# ── the record ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_record(path: Path) -> Iterator[tuple[int, Entry]]:
    """The whole records of a file, each with the position behind it."""
    end = 0
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            operation, inode, place, first, second = _HEAD.unpack(head)
            data, target = file.read(first), file.read(second)
            if len(data) < first or len(target) < second:
                return
            end += _HEAD.size + first + second
            yield end, Entry(operation.decode(), inode, place, data, target)


class Recorder:
    """The compiled `recorder.c`. Raises RuntimeError, with what is missing, where it cannot work."""

    def __init__(self, folder: Path) -> None:
        if reason := missing():
            raise RuntimeError(reason)
        self.library = folder / "recorder.so"
        source = Path(__file__).with_name("recorder.c")
        command = [_compiler() or "cc", "-shared", "-fPIC", "-O2", "-o", str(self.library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the recorder does not compile:\n{done.stderr}")

    def environment(
        self, folder: Path, record: Path | None, *, sync_ms: float = 0, lies: bool = False
    ) -> dict[str, str]:
        """For a server whose doings below the folder are to be recorded; only slowed down, without a record.

        `sync_ms` is what each fsync takes longer. A disk that `lies` answers that it has synced, and has not.
        """
        told = {
            "LD_PRELOAD": str(self.library),
            "RECORDER_FOLDER": str(folder.resolve()),
            "RECORDER_FILE": str(record or os.devnull),
            "RECORDER_SYNC_MS": str(sync_ms),
        }
        return told | ({"RECORDER_LIES": "1"} if lies else {})


def missing() -> str | None:
    """What this machine lacks for a recorder."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "what a server does to its disk can be recorded on Linux with glibc only"
    if not _compiler():
        return "a C compiler is needed to record what a server does to its disk: install gcc, or name one in CC"
    return None


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


@contextlib.contextmanager
def between_calls(record: Path) -> Iterator[None]:
    """Within the block no process is between a call and its record."""
    with record.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
