"""The store of files: a path that exists is a whole file, nothing leads outside, and a full disk is said to be full."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import shutil
import stat
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.errors import BackendLost, OutputInvalid, StorageFailed
from app.storage.files import HELD_BYTES, FileStore, Received, output_path, thumbnail_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

PATH = "2026/11/23/17/1_0.png"
THUMBNAIL = "2026/11/23/17/1_0.thumb.webp"
LARGE = b"x" * (HELD_BYTES + 1)
"""Too large to be held in memory while it is received."""


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def files(store: FileStore) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


async def chunks(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [0, 1, 300_000, HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, 3 * HELD_BYTES])
async def test_what_was_received_and_kept_is_whole(store: FileStore, size: int) -> None:
    data = os.urandom(size)
    parts = [data[at:until] for at, until in itertools.pairwise((0, 1, 200_000, 200_000, 900_000, size))]
    received = await store.receive(chunks(*(parts if size > 900_000 else [data])), len(data))
    with received.open() as file:
        assert file.read() == data
    stored = await store.keep(received, PATH)
    assert (stored.path, stored.size_bytes, stored.sha256) == (PATH, len(data), hashlib.sha256(data).hexdigest())
    assert store.absolute(PATH).read_bytes() == data
    assert files(store) == [PATH]


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def _umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("data", [b"small", LARGE])
async def test_what_is_stored_is_for_owner_and_group_alone(tmp_path: Path, data: bytes) -> None:
    store = FileStore(tmp_path / "some" / "store")
    received = await store.receive(chunks(data[:10], data[10:], b""), len(data))
    temporary = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(temporary) == (len(data) > HELD_BYTES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in temporary} <= {0o640}
    store.keep_now(received, PATH)
    store.write_now({THUMBNAIL: b"thumbnail"})
    await store.write("2026/11/24/18/1_0.png", b"more")
    found = [tmp_path / "some", store.root, *store.root.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {0o640}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o750}
    assert len([path for path in found if path.is_file()]) == 3


async def test_files_get_the_group_that_the_store_hands_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2750)
    before = os.umask(0o077)
    try:
        await FileStore(root).write(PATH, b"x")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()} == {0o2750}


async def test_nothing_is_seen_under_its_name_before_it_is_whole(store: FileStore) -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"half"
        await go_on.wait()
        yield b"whole"

    async def write() -> None:
        await store.keep(await store.receive(slow(), 100), PATH)

    await store.write(PATH, b"from an attempt that broke off")
    writing = asyncio.create_task(write())
    for _ in range(20):
        await asyncio.sleep(0)
        assert store.absolute(PATH).read_bytes() == b"from an attempt that broke off"
    go_on.set()
    await writing
    assert store.absolute(PATH).read_bytes() == b"halfwhole"


@pytest.mark.parametrize("half", [b"half", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("error", [BackendLost("gone"), ValueError("bug"), asyncio.CancelledError()])
async def test_what_breaks_off_leaves_nothing_and_is_told_as_it_was(
    store: FileStore, error: BaseException, half: bytes
) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield half
        raise error

    with pytest.raises(type(error)):
        await store.receive(broken(), 2**30)
    assert files(store) == []


async def test_a_reception_that_is_cancelled_while_a_thread_writes_leaves_nothing(store: FileStore) -> None:
    for turns in range(12):
        receiving = asyncio.create_task(store.receive(chunks(*[LARGE] * 3), 2**30))
        for _ in range(turns):
            await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    assert files(store) == []


def test_a_thread_that_comes_after_the_discarding_writes_nothing(store: FileStore) -> None:
    received = Received(str(store.root / ".tmp" / "x"))
    received.discard()
    received.append([LARGE])
    assert files(store) == []


@pytest.mark.parametrize("data", [b"x", LARGE], ids=["small", "large"])
async def test_what_could_not_be_made_durable_is_taken_away_again(
    store: FileStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = await store.receive(chunks(data), 2**30)
    fsync = os.fsync

    def only_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    with pytest.raises(StorageFailed, match="Input/output error"):
        store.keep_now(received, PATH)
    assert files(store) == []


async def test_a_source_is_closed_at_once_when_its_bytes_are_refused(store: FileStore) -> None:
    closed = False

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            while True:
                yield b"x"
        finally:
            closed = True

    with pytest.raises(OutputInvalid):
        await store.receive(endless(), 10)
    assert closed


async def test_what_is_too_large_is_refused_at_the_byte_and_leaves_nothing(store: FileStore) -> None:
    with pytest.raises(OutputInvalid, match="10 bytes"):
        await store.receive(chunks(b"x" * 10, b"x"), 10)
    assert files(store) == []
    with pytest.raises(OutputInvalid, match=f"{len(LARGE)} bytes"):
        await store.receive(chunks(LARGE, b"x"), len(LARGE))
    assert files(store) == []
    await store.discard(await store.receive(chunks(b"x" * 10), 10))
    large = await store.receive(chunks(LARGE), len(LARGE))
    assert len(files(store)) == 1
    await store.discard(large)
    assert files(store) == []


async def test_a_file_that_has_no_place_leaves_nothing(store: FileStore) -> None:
    store.absolute(f"{PATH}/in the way").mkdir(parents=True)
    for data in (b"x", LARGE):
        with pytest.raises(StorageFailed, match="could not be stored"):
            store.keep_now(await store.receive(chunks(data), 2**30), PATH)
        assert files(store) == []


async def test_small_files_of_a_folder_are_stored_together_or_not_at_all(store: FileStore) -> None:
    await store.write(PATH, b"picture")
    others = {f"2026/11/23/17/1_{number}.thumb.webp": b"small" for number in range(3)}
    store.absolute("2026/11/23/17/1_2.thumb.webp/in the way").mkdir(parents=True)
    with pytest.raises(StorageFailed, match="could not be stored"):
        store.write_now(others)
    assert files(store) == [PATH]
    shutil.rmtree(store.absolute("2026/11/23/17/1_2.thumb.webp"))
    store.write_now(others)
    assert files(store) == [PATH, *others]


@pytest.mark.parametrize(
    ("path", "beside"),
    [(PATH, THUMBNAIL), ("a.b/1_0.noending", "a.b/1_0.thumb.webp"), ("a.b/1_0", "a.b/1_0.thumb.webp")],
)
def test_a_thumbnail_is_kept_beside_its_picture(path: str, beside: str) -> None:
    assert thumbnail_path(path) == beside


async def test_what_is_discarded_after_it_was_kept_stays(store: FileStore) -> None:
    for data in (b"x", LARGE):
        received = await store.receive(chunks(data), 2**30)
        await store.keep(received, PATH)
        await store.discard(received)
        assert store.absolute(PATH).read_bytes() == data


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "a/b/../../../x"])
async def test_no_path_leads_outside_and_the_file_is_not_left_lying(store: FileStore, path: str) -> None:
    for data in (b"x", LARGE):
        received = await store.receive(chunks(data), 2**30)
        with pytest.raises(ValueError, match="outside"):
            await store.keep(received, path)
    with pytest.raises(ValueError, match="outside"):
        await store.delete([path])
    assert files(store) == []


async def test_a_link_out_of_the_store_is_not_followed(store: FileStore, tmp_path: Path) -> None:
    store.root.mkdir()
    (tmp_path / "secret").write_text("x")
    (store.root / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="outside"):
        store.absolute("link/secret")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(alphabet=st.sampled_from("./ab\\~"), min_size=1))
def test_whatever_the_path_it_stays_inside(store: FileStore, path: str) -> None:
    try:
        found = store.absolute(path)
    except ValueError:
        return
    assert found.is_relative_to(store.root.resolve())


async def test_deleting_takes_empty_folders_along_and_leaves_neighbours(store: FileStore) -> None:
    for path in ("2026/11/23/17/1_0.png", "2026/11/23/17/1_1.png", "2026/11/22/3/1_0.png"):
        await store.write(path, b"x")
    await store.delete(["2026/11/23/17/1_0.png", "2026/11/23/17/gone already.png", "1999/01/01/1/1_0.png"])
    assert files(store) == ["2026/11/22/3/1_0.png", "2026/11/23/17/1_1.png"]
    await store.delete(["2026/11/23/17/1_1.png"])
    assert sorted(path.name for path in (store.root / "2026" / "11").iterdir()) == ["22"]
    await store.delete(["2026/11/22/3/1_0.png"])
    assert list(store.root.iterdir()) == []
    await store.write(PATH, b"again")
    assert files(store) == [PATH]


async def test_writing_and_deleting_next_to_each_other_loses_no_file(store: FileStore) -> None:
    async def churn(number: int) -> None:
        for _ in range(15):
            await store.write(f"2026/11/23/{number}/1_0.png", b"x")
            await store.delete([f"2026/11/23/{number}/1_0.png"])

    await asyncio.gather(*(churn(number) for number in range(8)))
    assert files(store) == []


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match="could not be stored"):
        await FileStore(tmp_path / "file").receive(chunks(LARGE), 2**30)
    store = FileStore(tmp_path / "store")
    for data in (LARGE, b"x"):
        received = await store.receive(chunks(data), 2**30)
        store.root.mkdir(exist_ok=True)
        (store.root / "2026").write_text("in the way")
        with pytest.raises(StorageFailed, match="could not be stored"):
            await store.keep(received, PATH)
        assert files(store) == ["2026"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root, where it may mount, can make a disk small enough to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_said_to_be_full_and_what_was_half_written_makes_room_again(small_disk: Path) -> None:
    store = FileStore(small_disk)
    await store.write("a/1_0.png", b"x" * 1000)
    with pytest.raises(StorageFailed, match="No space left"):
        await store.receive(chunks(*[os.urandom(2**18)] * 8), 2**30)
    assert files(store) == ["a/1_0.png"]
    await store.write("a/1_1.png", os.urandom(2**19))
    with pytest.raises(StorageFailed, match="No space left"):
        await store.write("b/1_0.png", os.urandom(2**19))
    assert files(store) == ["a/1_0.png", "a/1_1.png"]
    assert not (small_disk / "b").exists()


async def test_old_files_are_found_and_broken_off_ones_deleted(store: FileStore) -> None:
    await store.write("2026/11/23/17/1_0.png", b"old")
    await store.write("2026/11/23/17/1_1.png", b"new")
    await store.write("2026/11/20/3/1_0.png", b"of a folder long unchanged")
    for _ in range(2):
        await store.receive(chunks(LARGE), 2**30)
    temporary, fresh = (store.root / ".tmp").iterdir()
    ago = time.time() - 600
    for path in (store.absolute("2026/11/23/17/1_0.png"), temporary, store.absolute("2026/11/20/3/1_0.png")):
        os.utime(path, (ago, ago))
    long_ago = time.time() - 10_000
    os.utime(store.absolute("2026/11/20/3"), (long_ago, long_ago))
    assert await store.old_files(300, 5000) == ["2026/11/23/17/1_0.png"]
    assert (temporary.exists(), fresh.exists()) == (False, True)


async def test_a_store_that_nobody_wrote_to_has_no_old_files(store: FileStore) -> None:
    assert await store.old_files(0, 10**9) == []


def test_outputs_are_kept_by_the_day_of_their_job() -> None:
    at = datetime(2026, 1, 2, 23, 59, tzinfo=UTC)
    assert output_path(at, 17, 3, 0, "png") == "2026/01/02/17/3_0.png"
