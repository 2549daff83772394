"""Looking into one environment's database in Redis, and clearing it and no other."""

from __future__ import annotations

import re
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from acceptance.commands import ROOT, Place, eventually, taken, temporary_place
from redis import Redis

from app.embedded import Wanted, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

NUMBERS = {"dev": 4, "demo": 2, "test": 3}
"""The founding numbers of the environments' databases."""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


@pytest.fixture(scope="module")
def redis_url(place: Place) -> Iterator[str]:
    """A Redis of somebody's own, which every environment uses."""
    services = start(Wanted(place.data_dir / "own", redis=True, redis_port=0, durable=False))
    yield services.running.redis_url
    services.stop()


@pytest.fixture
def filled(redis_url: str) -> Iterator[dict[str, Redis]]:
    """A client for each environment's database, with some keys of each in it."""
    clients = {name: Redis.from_url(redis_url, db=number) for name, number in NUMBERS.items()}
    for name, client in clients.items():
        client.flushdb()
        client.set("arq:job:12:1", "{}", ex=3600)
        client.set("arq:job:13:1", "{}", ex=3600)
        client.zadd(f"genonaut_{name}:arq:queue", {"12:1": 1, "13:1": 2})
        client.set(f"genonaut_{name}:live:12", "[]", px=90_000)
        client.set("stranger", "1")
    yield clients
    for client in clients.values():
        client.close()


@pytest.mark.parametrize("environment", NUMBERS)
def test_flush_says_what_it_deleted_and_touches_no_other_database(place, redis_url, filled, environment):
    done = place.run("redis-flush", "--env", environment, REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    number = NUMBERS[environment]
    assert f"Database {number} (genonaut_{environment})" in done.stdout
    assert "5 keys were deleted" in done.stdout
    assert re.search(r"^arq:job:\* +2$", done.stdout, re.MULTILINE)
    assert re.search(rf"^genonaut_{environment}:live:\* +1$", done.stdout, re.MULTILINE)
    assert "waiting jobs are in PostgreSQL" in done.stdout
    assert {name: client.dbsize() for name, client in filled.items()} == dict.fromkeys(NUMBERS, 5) | {environment: 0}


def test_flush_of_an_empty_database_says_so(place, redis_url, filled):
    filled["dev"].flushdb()
    done = place.run("redis-flush", "--env", "dev", REDIS_URL=redis_url)
    assert done.returncode == 0
    assert "had no keys; nothing was deleted" in done.stdout


def test_keys_are_listed_in_order_with_type_and_time_to_live(place, redis_url, filled):
    done = place.run("redis-keys", "--env", "demo", REDIS_URL=redis_url)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert rows[0] == ["KEY", "TYPE", "TTL"]
    assert rows[1:] == [
        ["arq:job:12:1", "string", "60 min"],
        ["arq:job:13:1", "string", "60 min"],
        ["genonaut_demo:arq:queue", "zset", "for ever"],
        ["genonaut_demo:live:12", "string", rows[4][2]],
        ["stranger", "string", "for ever"],
    ]
    assert rows[4][2] in ("90 s", "89 s", "88 s", "87 s", "86 s", "85 s")


def test_info_tells_of_server_queue_keys_and_channels(place, redis_url, filled):
    with filled["dev"].pubsub() as listener:
        listener.subscribe("genonaut_dev:events", "genonaut_demo:events")
        listener.get_message(timeout=10)
        done = place.run("redis-info", "--env", "dev", REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Version +(Redis|Valkey) \d", done.stdout, re.MULTILINE)
    assert re.search(r"^Database +4, namespace genonaut_dev, 5 keys$", done.stdout, re.MULTILINE)
    assert re.search(r"^Queue +2 turns in genonaut_dev:arq:queue$", done.stdout, re.MULTILINE)
    assert re.search(r"^arq:job:\* +2 +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^genonaut_dev:events +1$", done.stdout, re.MULTILINE)
    assert "genonaut_demo" not in done.stdout


def test_a_password_is_not_shown_and_a_server_that_is_away_is_one_sentence(place):
    done = place.run("redis-info", "--env", "dev", REDIS_URL=f"redis://:s3cret@127.0.0.1:{place.redis_port}")
    assert done.returncode == 1
    assert "s3cret" not in done.stdout + done.stderr
    assert re.fullmatch(r"Redis at redis://:\*\*\*@.* \(REDIS_URL\) cannot be used: .*\n", done.stderr)


def test_what_the_embedded_redis_kept_is_seen_without_a_running_service(place):
    services = start(Wanted(place.data_dir, redis=True, redis_port=place.redis_port))
    with Redis.from_url(services.running.redis_url, db=2) as redis:
        redis.set("genonaut_demo:live:7", "[]")
    services.stop()
    done = place.run("redis-keys", "--env", "demo")
    assert "genonaut_demo:live:7" in done.stdout
    assert "starting" in done.stderr
    assert place.left_behind() == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code with files of its own in env/."""
    for folder in ("app", "env", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("data", "*.conf", ".env.local"))
    return tmp_path


def test_redis_start_serves_with_the_password_of_redis_conf_until_ctrl_c(place, checkout):
    template = (ROOT / "env" / "redis.conf.example").read_text()
    (checkout / "env" / "redis.conf").write_text(template.replace("change-me", '"a real one"'))
    with place.running("redis-start", cwd=checkout) as command:
        command.says("Ctrl-C stops it")
        with Redis(port=place.redis_port, password="a real one") as redis:
            assert redis.ping()
        assert command.ends(signal.SIGINT) == 0
    assert f"redis://:***@127.0.0.1:{place.redis_port}" in command.output
    assert "a real one" not in command.output
    eventually(place.is_quiet, "Redis has ended")


@pytest.mark.parametrize(
    ("has_template", "advice"), [(True, "still the template's"), (False, "copy env/redis.conf.example to it")]
)
def test_redis_start_says_when_there_is_no_real_password(place, checkout, has_template, advice):
    if has_template:
        shutil.copy(ROOT / "env" / "redis.conf.example", checkout / "env" / "redis.conf")
    with place.running("redis-start", cwd=checkout) as command:
        command.says("Ctrl-C stops it")
        assert command.ends(signal.SIGTERM) == 0
    assert advice in command.output
    eventually(place.is_quiet, "Redis has ended")


def test_redis_start_names_the_setting_when_its_port_is_taken(place):
    with taken(place.redis_port):
        done = place.run("redis-start")
    assert done.returncode == 1
    assert f"Port {place.redis_port} is in use by another program" in done.stderr
    assert "REDIS_PORT" in done.stderr
