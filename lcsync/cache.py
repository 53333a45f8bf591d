# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The index on disk: trees of files that have not changed, so that those need not be read again.

An entry is taken only for the very version of a file that it was made of (device, inode, size, mtime, ctime), and only
if its checksum is right. Nothing here can be lost that is not made again from the files, so every failure ends in a
warning and a new index, or in none.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2s
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcsync._blake2s import hash_blocks
from lcsync.const import (
    CLOCK_COARSE_NS,
    CLOCK_STEP_NS,
    HASH_BYTES,
    INDEX_APPLICATION_ID,
    INDEX_BUSY_S,
    INDEX_BYTES_MAX,
    INDEX_CACHE_KIB,
    INDEX_FLUSH_ROWS,
    INDEX_FLUSH_S,
    INDEX_GET_ROWS,
    INDEX_VERSION,
    INLINE_BYTES_MAX,
    LEAVES_ROW_BYTES,
    LEAVES_SHORT_BYTES,
    PERSON_INDEX,
    PERSON_LEAF,
)
from lcsync.files import Version, kind_of
from lcsync.merkle import Hashes, Tree, as_hashes
from lcsync.paths import one_line, printable

FOLDERS = """
CREATE TABLE IF NOT EXISTS folder(folder BLOB PRIMARY KEY, parts INTEGER, checksum BLOB, used INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folder_part(folder BLOB, number INTEGER, data BLOB, PRIMARY KEY(folder, number));
"""
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS tree(
    file BLOB PRIMARY KEY, version BLOB, inline BLOB, leaves BLOB, parts INTEGER, checksum BLOB, used INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS part(file BLOB, number INTEGER, leaves BLOB, PRIMARY KEY(file, number));
CREATE TABLE IF NOT EXISTS same(files BLOB PRIMARY KEY, versions BLOB, used INTEGER) WITHOUT ROWID;
{FOLDERS}
CREATE INDEX IF NOT EXISTS tree_used ON tree(used);
PRAGMA application_id = {INDEX_APPLICATION_ID};
PRAGMA user_version = {INDEX_VERSION};
COMMIT;
"""
UNUSABLE = ("locked", "readonly", "full", "unable to open")  # what SQLite says of a file that need not be broken
DAY_S = 86400
UNSOUND = "an entry is not what its checksum says"
_FILE = struct.Struct(">QQI")  # device, inode, block size: in byte order, files that were made together are neighbours
_VERSION = struct.Struct(">QQQ")  # length, mtime_ns, ctime_ns: of those what comes round after 584 years
_U64 = (1 << 64) - 1
Row = tuple[bytes, bytes, bytes | None, bytes, int, bytes, int]


class Known(NamedTuple):
    """What the index has of a file: its tree, and the content if it travels in the manifest."""

    tree: Tree
    inline: bytes | None


def default_path() -> str:
    """Where the index is unless told: in the user's cache directory."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lcsync", "index.sqlite"))


class TreeCache:
    """The index at ``path``, a new one if there is none; None: nothing is kept.

    ``say`` gets warnings. May be used from several threads. Call ``close``, or use it as a context manager.
    """

    def __init__(
        self, path: str | None, say: Callable[[str], None] = lambda line: None, bytes_max: int = INDEX_BYTES_MAX
    ) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self._say = say
        self._today = int(time.time()) // DAY_S
        self._lock = RLock()
        self._db: sqlite3.Connection | None = None
        self._rows: list[tuple[Row, list[bytes]]] = []
        self._same: list[tuple[bytes, bytes, int]] = []
        self._used: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._flush_at = 0.0
        if path is not None:
            with self._trouble():
                self._open(path)

    # --- what is known ---

    def get(self, version: Version, block_bytes: int) -> Known | None:
        """The tree of the file that has this version."""
        return self.get_many([version], block_bytes)[0]

    def get_many(self, versions: Sequence[Version], block_bytes: int) -> list[Known | None]:
        """For each of the files its tree, if it is known: in a third of the time that one after the other takes."""
        out: list[Known | None] = [None] * len(versions)
        with self._lock, self._trouble():
            for at in range(0, len(versions), INDEX_GET_ROWS):
                if self._db is not None:
                    some = range(at, min(at + INDEX_GET_ROWS, len(versions)))
                    try:
                        self._get(self._db, versions, some, block_bytes, out)
                    except TypeError:  # a column is of another type
                        raise sqlite3.DatabaseError(UNSOUND) from None
        return out

    def _get(
        self,
        db: sqlite3.Connection,
        versions: Sequence[Version],
        some: range,
        block_bytes: int,
        out: list[Known | None],
    ) -> None:
        asked = {_file(versions[number], block_bytes): number for number in some}
        found, all_leaves, checksums = [], [], []
        for file, seen, inline, leaves, parts, checksum, used in self._rows_of(db, sorted(asked)):
            number = asked.get(file)
            if number is None:
                continue
            version = versions[number]
            if seen != _version(version):
                continue
            blocks = -(-version.length // block_bytes) or 1
            if parts:
                leaves = _parts(db, "part", "leaves", "file", file, blocks * HASH_BYTES)
            if len(leaves) != blocks * HASH_BYTES or not _belongs(inline, version, block_bytes, leaves):
                raise sqlite3.DatabaseError(UNSOUND)
            if used != self._today:
                self._used.append((self._today, file))
            found.append((number, version.length, blocks, inline, file + seen))
            all_leaves.append(leaves)
            checksums.append(checksum)
        # one array, and one call for all checksums: what is done for each by itself takes longer than all the rest
        hashes = as_hashes(b"".join(all_leaves))
        messages: list[bytes] = []
        known, at = [], 0
        for number, length, blocks, inline, key in found:
            tree = Tree(length, block_bytes, hashes[at : at + blocks])
            at += blocks
            messages += (key, tree.top)
            known.append((number, Known(tree, inline)))
        if found and _checksums(messages) != b"".join(checksums):
            raise sqlite3.DatabaseError(UNSOUND)
        for number, each in known:
            out[number] = each
        if len(asked) < len(some):  # a file of several names
            for number in some:
                first = asked[_file(versions[number], block_bytes)]
                if versions[first] == versions[number]:
                    out[number] = out[first]

    @staticmethod
    def _rows_of(db: sqlite3.Connection, files: list[bytes]) -> list[tuple[bytes, bytes, Any, Any, Any, Any, int]]:
        """The rows of ``files``, which are in order; maybe others among them.

        Files that were made together are neighbours, and to read on in the table takes half the time of a search for
        each. Where too many others are in between, each is searched for.
        """
        select = "SELECT file, version, inline, leaves, parts, checksum, used FROM tree WHERE file "
        most = 2 * len(files)
        rows = db.execute(select + "BETWEEN ? AND ? LIMIT ?", (files[0], files[-1], most)).fetchall()
        if len(rows) == most:
            rows = db.execute(select + f"IN ({','.join('?' * len(files))})", files).fetchall()
        return rows

    def put(self, version: Version, tree: Tree, inline: bytes | None, looked_ns: int) -> None:
        """Keep the tree of a file. ``looked_ns``: the time before its first byte was read."""
        if not settled(version, looked_ns):
            return
        size = tree.leaves.nbytes
        if size > self.bytes_max // 2 or not _belongs(inline, version, tree.block_bytes, tree.leaves):
            return
        with self._lock:
            if self._db is None:
                return
            file, seen = _file(version, tree.block_bytes), _version(version)
            flat = tree.leaves.reshape(-1)
            starts = range(0, size, LEAVES_ROW_BYTES) if size > LEAVES_SHORT_BYTES else ()
            parts = [flat[at : at + LEAVES_ROW_BYTES].tobytes() for at in starts]
            leaves = b"" if parts else flat.tobytes()
            row = (file, seen, inline, leaves, len(parts), _checksums([file, seen, tree.top]), self._today)
            self._rows.append((row, parts))
            self._pend(size)

    def same(self, a: Version, b: Version) -> bool:
        """Whether two files, of these versions, were found to have the same content."""
        with self._lock, self._trouble():
            if self._db is None:
                return False
            row = self._db.execute("SELECT versions FROM same WHERE files = ?", (_files(a, b),)).fetchone()
            return row is not None and row[0] == _checked_versions(a, b)
        return False

    def put_same(self, a: Version, b: Version, looked_ns: int) -> None:
        """Keep that two files have the same content. ``looked_ns``: the time before they were compared."""
        if settled(a, looked_ns) and settled(b, looked_ns):
            with self._lock:
                if self._db is not None:
                    self._same.append((_files(a, b), _checked_versions(a, b), self._today))
                    self._pend(100)

    def folder(self, device: int, inode: int, block_bytes: int) -> bytes | None:
        """What was kept of a folder, by ``put_folder``."""
        with self._lock, self._trouble():
            if self._db is None:
                return None
            key = _folder(device, inode, block_bytes)
            row = self._db.execute("SELECT parts, checksum, used FROM folder WHERE folder = ?", (key,)).fetchone()
            if row is None:
                return None
            try:
                data = _parts(self._db, "folder_part", "data", "folder", key, self.bytes_max // 2)
            except TypeError:  # a column is of another type
                raise sqlite3.DatabaseError(UNSOUND) from None
            if row[1] != _sum(key, data):
                raise sqlite3.DatabaseError(UNSOUND)
            if row[2] != self._today:
                self._db.execute("UPDATE folder SET used = ? WHERE folder = ?", (self._today, key))
            return data
        return None

    def put_folder(self, device: int, inode: int, block_bytes: int, data: bytes) -> None:
        """Keep what is known of a folder in place of what was known; written at once. No data: forget it."""
        with self._lock, self._trouble():
            if self._db is None or len(data) > self.bytes_max // 2:
                return
            key = _folder(device, inode, block_bytes)
            parts = [data[at : at + LEAVES_ROW_BYTES] for at in range(0, len(data), LEAVES_ROW_BYTES)]
            with self._transaction(self._db) as db:
                db.execute("DELETE FROM folder WHERE folder = ?", (key,))
                db.execute("DELETE FROM folder_part WHERE folder = ?", (key,))
                if parts:
                    row = (key, len(parts), _sum(key, data), self._today)
                    db.execute("INSERT INTO folder VALUES (?, ?, ?, ?)", row)
                    rows = ((key, number, part) for number, part in enumerate(parts))
                    db.executemany("INSERT INTO folder_part VALUES (?, ?, ?)", rows)
            self._make_room(self._db)

    # --- on disk ---

    def _pend(self, size: int) -> None:
        now = time.monotonic()
        if not self._pending_bytes:
            self._flush_at = now + INDEX_FLUSH_S
        self._pending_bytes += size
        many = len(self._rows) + len(self._same) >= INDEX_FLUSH_ROWS or self._pending_bytes > LEAVES_ROW_BYTES
        if many or now >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write what is kept in memory, in one transaction."""
        with self._lock, self._trouble():
            rows, same, used = self._rows, self._same, self._used
            self._rows, self._same, self._used, self._pending_bytes = [], [], [], 0
            if self._db is None or not (rows or same or used):
                return
            with self._transaction(self._db) as db:
                db.executemany("DELETE FROM part WHERE file = ?", [(row[0],) for row, _ in rows])
                db.executemany("REPLACE INTO tree VALUES (?, ?, ?, ?, ?, ?, ?)", [row for row, _ in rows])
                for row, parts in rows:
                    db.executemany(
                        "INSERT INTO part VALUES (?, ?, ?)", ((row[0], i, part) for i, part in enumerate(parts))
                    )
                db.executemany("REPLACE INTO same VALUES (?, ?, ?)", same)
                db.executemany("UPDATE tree SET used = ? WHERE file = ?", used)
            self._make_room(self._db)

    def _make_room(self, db: sqlite3.Connection) -> None:
        """The entries that were not used for longest go, an eighth of all at a time."""
        while _bytes_in_use(db) > self.bytes_max:
            with self._transaction(db):
                db.execute("DELETE FROM same WHERE files IN (SELECT files FROM same ORDER BY used LIMIT 1 + "
                           "(SELECT count(*) FROM same) / 8)")  # fmt: skip
                db.execute("DELETE FROM tree WHERE file IN (SELECT file FROM tree ORDER BY used LIMIT 1 + "
                           "(SELECT count(*) FROM tree) / 8)")  # fmt: skip
                db.execute("DELETE FROM part WHERE file NOT IN (SELECT file FROM tree)")
                db.execute("DELETE FROM folder WHERE folder IN (SELECT folder FROM folder ORDER BY used LIMIT 1 + "
                           "(SELECT count(*) FROM folder) / 8)")  # fmt: skip
                db.execute("DELETE FROM folder_part WHERE folder NOT IN (SELECT folder FROM folder)")
            if not db.execute("SELECT (SELECT count(*) FROM tree) + (SELECT count(*) FROM folder)").fetchone()[0]:
                return

    @staticmethod
    @contextmanager
    def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _open(self, path: str) -> None:
        folder = os.path.dirname(path) or "."
        with suppress(FileExistsError):
            os.makedirs(folder, mode=0o700)
        # it holds the content of small files, so it is for its owner alone
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        if not stat.S_ISREG(mode):
            raise OSError(None, f"is a {kind_of(mode)}, not a file")
        db = sqlite3.connect(path, timeout=INDEX_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA temp_store = MEMORY")  # other folders may be out of reach (Landlock)
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                if db.execute("PRAGMA application_id").fetchone()[0] != INDEX_APPLICATION_ID:
                    raise sqlite3.DatabaseError("is not an index of lcsync")
                if (found := db.execute("PRAGMA user_version").fetchone()[0]) != INDEX_VERSION:
                    raise sqlite3.DatabaseError(f"is of version {found}, not {INDEX_VERSION}")
                db.executescript(FOLDERS)  # an index may be older than these
                if _shape(db) != _right_shape():  # a view may never end, a trigger may do anything
                    raise sqlite3.DatabaseError("has other tables than an index of lcsync")
            else:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(SCHEMA)
            db.execute(f"PRAGMA cache_size = -{INDEX_CACHE_KIB}")
            db.execute("PRAGMA synchronous = NORMAL")  # a power cut costs the last entries, never the file
            db.execute("SELECT used FROM tree LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        self._db = db

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            self._failed(error)
        except UnicodeDecodeError:  # SQLite tells of what is broken in words of its own
            self._failed(sqlite3.DatabaseError("is broken beyond words"))

    def _failed(self, error: Exception) -> None:
        """A broken index is set aside and made anew; one that can't be used is done without. Both are said."""
        self._drop()
        reason = str(error.strerror or error).lower() if isinstance(error, OSError) else str(error)
        unusable = isinstance(error, OSError) or (
            isinstance(error, sqlite3.OperationalError) and any(word in reason for word in UNUSABLE)
        )
        if not unusable:
            self._set_aside(reason)
        elif "locked" in reason:
            self._warn("in use by another program; going on without it")
        else:
            self._warn(f"{reason}; going on without it")

    def _set_aside(self, reason: str) -> None:
        assert self.path is not None
        aside = f"{self.path}.aside-{time.time_ns()}"
        try:
            os.rename(self.path, aside)
            for tail in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.rename(self.path + tail, aside + tail)
            self._warn(f"{reason}; set aside as {printable(os.path.basename(aside))}, and a new one begun")
            self._open(self.path)
        except (OSError, sqlite3.Error) as error:
            self._drop()
            self._warn(f"{error}; going on without it")

    def _warn(self, what: str) -> None:
        # SQLite quotes what a damaged file has in its schema
        self._say(one_line(f"index {printable(self.path or '')}: {what}"))

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.flush()
        with self._lock:
            self._drop()

    def __enter__(self) -> TreeCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parts(db: sqlite3.Connection, table: str, column: str, key: str, value: bytes, most: int) -> bytes:
    """The rows that belong together, in order; their size is looked at before they are read."""
    (size,) = db.execute(f"SELECT total(length({column})) FROM {table} WHERE {key} = ?", (value,)).fetchone()
    if size > most:
        raise sqlite3.DatabaseError(UNSOUND)
    rows = db.execute(f"SELECT {column} FROM {table} WHERE {key} = ? ORDER BY number", (value,))
    return b"".join([part for (part,) in rows])


def _shape(db: sqlite3.Connection) -> set[tuple[str, ...]]:
    """All that there is in a database besides rows, and what the names stand for."""
    return set(db.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master"))


def _right_shape() -> set[tuple[str, ...]]:
    db = sqlite3.connect(":memory:")
    try:
        db.executescript(SCHEMA)
        return _shape(db)
    finally:
        db.close()


def settled(version: Version, looked_ns: int) -> bool:
    """Whether a change after ``looked_ns`` must give the file another version: its last one was a clock step ago."""
    last = max(version.mtime_ns, version.ctime_ns)
    coarse = version.ctime_ns % 1_000_000_000 == 0
    return last < looked_ns - (CLOCK_COARSE_NS if coarse else CLOCK_STEP_NS)


def settled_many(versions: NDArray[np.int64], looked_ns: int) -> NDArray[np.bool_]:
    """The same of many: the rows are Versions."""
    mtimes, ctimes = versions[:, 1], versions[:, 2]
    ticks = np.where(ctimes % 1_000_000_000 == 0, CLOCK_COARSE_NS, CLOCK_STEP_NS)
    return np.asarray(np.maximum(mtimes, ctimes) < looked_ns - ticks)


def _file(version: Version, block_bytes: int) -> bytes:
    return _FILE.pack(version.device, version.inode, block_bytes)


def _folder(device: int, inode: int, block_bytes: int) -> bytes:
    return b"%d %d %d" % (device, inode, block_bytes)


def _sum(key: bytes, data: bytes) -> bytes:
    return blake2s(key + b" " + data, digest_size=16).digest()


def _version(version: Version) -> bytes:
    return _VERSION.pack(version.length, version.mtime_ns & _U64, version.ctime_ns & _U64)


def _belongs(inline: bytes | None, version: Version, block_bytes: int, leaves: bytes | Hashes) -> bool:
    """Whether ``inline`` is the content of a file that is so short, and None for any other."""
    if version.length > INLINE_BYTES_MAX:
        return inline is None
    return inline is not None and hash_blocks(inline, block_bytes, PERSON_LEAF) == bytes(leaves)


def _checksums(parts: list[bytes]) -> bytes:
    """One for each entry of file, version and top: that stands for the leaves, whose number the other two say."""
    return hash_blocks(b"".join(parts), _FILE.size + _VERSION.size + HASH_BYTES, PERSON_INDEX)


def _files(a: Version, b: Version) -> bytes:
    return _file(a, 0) + _file(b, 0)


def _checked_versions(a: Version, b: Version) -> bytes:
    both = _version(a) + _version(b)
    return both + hash_blocks(_files(a, b) + both, 2 * (_FILE.size + _VERSION.size), PERSON_INDEX)


def _bytes_in_use(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
