"""Settings: where they come from, which of them win, and that a wrong one is named and no secret shown."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.http import HttpProcessingError
from pydantic import SecretStr
from redis.asyncio.connection import parse_url

from app.domain.errors import GenonautError
from app.environment import without_traceback_of_nonsense
from app.settings import ROOT, WrongSettings, is_loopback, load_settings, parse_backends

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the shell that runs the tests has set."""
    from app.settings import Settings

    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the code of the settings, and an env folder of this test's own."""
    domain = [f"app/domain/{name}.py" for name in ("__init__", "access", "errors", "forwarded", "limits")]
    for name in ("app/__init__.py", "app/settings.py", *domain, "app/domain/public_addresses.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "env").mkdir()
    return tmp_path


SHOWN = "genonaut_env,api_port,redis_db,log_level,redis_namespace,standin_port,monitor_port"


def loaded(checkout: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """Load the settings in that checkout, in a process with only these variables."""
    code = (
        "import sys; from app.settings import load_settings; "
        "print(load_settings(*sys.argv[2:]).model_dump_json(include=set(sys.argv[1].split(','))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SHOWN, *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_the_process_wins_over_local_over_the_environments_file_over_the_shared_one(checkout: Path) -> None:
    env = checkout / "env"
    (env / ".env").write_text("API_PORT=1001\nREDIS_DB=1\nLOG_LEVEL=DEBUG\n")
    assert loaded(checkout)["api_port"] == 1001
    (env / ".env.dev").write_text("API_PORT=1002\nREDIS_DB=2\n")
    (env / ".env.demo").write_text("API_PORT=1009\n")
    found = loaded(checkout)
    assert [found[name] for name in ("genonaut_env", "api_port", "redis_db", "log_level")] == ["dev", 1002, 2, "DEBUG"]
    (env / ".env.local").write_text("API_PORT=1003\n")
    assert loaded(checkout)["api_port"] == 1003
    assert loaded(checkout, API_PORT="1004")["api_port"] == 1004
    assert loaded(checkout, API_PORT="1004")["redis_db"] == 2


@pytest.mark.slow
def test_the_environment_is_the_asked_for_one_else_the_variables_else_dev(checkout: Path) -> None:
    for number, name in enumerate(("dev", "demo", "test")):
        (checkout / "env" / f".env.{name}").write_text(f"API_PORT={2000 + number}\n")
    assert loaded(checkout)["genonaut_env"] == "dev"
    assert loaded(checkout, GENONAUT_ENV="demo") == loaded(checkout, "demo") | {"genonaut_env": "demo"}
    assert loaded(checkout, "test", GENONAUT_ENV="demo")["api_port"] == 2002


@pytest.mark.slow
def test_each_environment_has_its_own_numbers(checkout: Path) -> None:
    for path in (ROOT / "env").glob(".env*"):
        if path.name != ".env.local":
            shutil.copy(path, checkout / "env")
    found = [loaded(checkout, name) for name in ("dev", "demo", "test")]
    assert [each["redis_db"] for each in found] == [4, 2, 3]
    assert [each["redis_namespace"] for each in found] == ["genonaut_dev", "genonaut_demo", "genonaut_test"]
    assert [each["api_port"] for each in found] == [8001, 8002, 8099]
    assert len({each["standin_port"] for each in found}) == 3
    assert len({load_settings(name, data_dir=None).data_path for name in ("dev", "demo", "test")}) == 3


WRONG: list[tuple[str, Any]] = [
    *(("api_port", value) for value in (0, 65536, "http", "")),
    *(("redis_db", value) for value in (-1, 16, "four")),
    *(("allowed_hosts", value) for value in ("*", "https://h", "h:8001", "a b")),
    *(("redis_namespace", value) for value in ("", "a b", "a*", "x" * 65)),
    *(("database_url", value) for value in ("mysql://u@h/db", "h:5432/db", f"postgresql://u:{SECRET}@h:x/db")),
    *(("database_url", value) for value in (f"postgresql://u:{SECRET}@[h/db", "postgresql://u@h:99999/db")),
    *(
        ("redis_url", value)
        for value in ("http://h", "redis://", f"redis://:{SECRET}/@h:6379", f"redis://:{SECRET}@h:x")
    ),
    *(
        ("comfyui_urls", value)
        for value in ("host:8188", "ftp://h", "http://", "http://h:x", "http://[", "http://h/?a=b")
    ),
    *(("comfyui_urls", value) for value in ("a=http://h,a=http://i", "http://h,http://h", "http://h/,a=http://h")),
    *(
        ("comfyui_urls", value)
        for value in (f"http://u:{SECRET}@h:x", f"ftp://u:{SECRET}@h", f"http://u:{SECRET}/@h:x")
    ),
    *(
        ("input_networks", value)
        for value in ("10.0.0.1/8", "host", "10.0.0.0/33", "*", "fe80::1%eth0", "10.0.0.0/8;fd00::/8")
    ),
    *(("trusted_proxies", value) for value in ("10.0.0.1/8", "host", "*", "0.0.0.0/0", "10.0.0.0/8, ::/0")),
    *(("root_path", value) for value in ("images", "/a//b", "/../a", "/a?b", "/api", "/monitor/x", "https://h/a")),
    *(("lease_seconds", value) for value in (0, -1, "long", 3601)),
    *(("database_timeout_seconds", value) for value in (0, -1, 301)),
    *(("max_body_bytes", value) for value in (0, 2**31)),
    *(("max_workflow_bytes", value) for value in (0, 65535, 2**29)),
    *(("ws_outbox_bytes", value) for value in (0, 65535, 2**31)),
    *(("log_level", value) for value in ("LOUD", "")),
    *(("api_host", value) for value in ("", "example.com", "127.0.0.1.example.com", "*", "10.0.0.1:80")),
    *(
        ("allowed_origins", value)
        for value in ("*", "null", "app.example", "https://app.example/", "https://A.example")
    ),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setenv(name.upper(), str(value))
    with pytest.raises(WrongSettings) as refused:
        load_settings("test")
    assert name.upper() in str(refused.value)
    assert SECRET not in str(refused.value)
    assert isinstance(refused.value, GenonautError)
    chain = refused.value.__cause__, refused.value.__context__
    assert SECRET not in str(chain)


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_PORT", "REDIS_DB", "BACKEND_SLOTS"):
        monkeypatch.setenv(name, "many")
    with pytest.raises(WrongSettings, match=r"API_PORT: .*REDIS_DB: .*BACKEND_SLOTS: "):
        load_settings("test")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heartbeat_seconds": 8.0, "lease_seconds": 15.0}, ["HEARTBEAT_SECONDS", "LEASE_SECONDS"]),
        ({"retry_base_seconds": 11.0, "retry_max_seconds": 10.0}, ["RETRY_BASE_SECONDS", "RETRY_MAX_SECONDS"]),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: dict[str, float], words: list[str]) -> None:
    with pytest.raises(WrongSettings) as refused:
        load_settings("test", **changes)
    assert all(word in str(refused.value) for word in words)


def test_an_environment_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongSettings, match="GENONAUT_ENV is 'production'"):
        load_settings("production")
    monkeypatch.setenv("GENONAUT_ENV", "Dev")
    with pytest.raises(WrongSettings, match="GENONAUT_ENV is 'Dev'"):
        load_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1", "0.0.0.0", "::", "192.168.1.5"])
def test_any_address_may_be_listened_on_and_only_some_are_this_machines_alone(host: str) -> None:
    settings = load_settings("test", api_host=host)
    assert settings.is_for_this_machine is is_loopback(host) is (host not in ("0.0.0.0", "::", "192.168.1.5"))
    assert settings.goes_by("10.1.2.3") is not settings.is_for_this_machine
    assert not settings.goes_by("evil.example")


def test_secrets_are_not_in_what_is_printed() -> None:
    settings = load_settings(
        "test",
        database_url=SecretStr(f"postgresql://u:{SECRET}@h/db"),
        redis_url=SecretStr(f"redis://:{SECRET}@h"),
    )
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_the_drivers_urls_are_made_from_the_plain_ones() -> None:
    for given in ("postgres://u:p@h/db", "postgresql://u:p@h/db", "postgresql+asyncpg://u:p@h/db"):
        assert load_settings("test", database_url=SecretStr(given)).sqlalchemy_url == "postgresql+asyncpg://u:p@h/db"
    for given, expected in (
        ("redis://:p@h:6379", "redis://:p@h:6379/3"),
        ("redis://h/9", "redis://h/3"),
        ("rediss://u:p%40@h:1/0?health_check_interval=2", "rediss://u:p%40@h:1/3?health_check_interval=2"),
        ("unix:///run/redis.sock?db=7", "unix:///run/redis.sock?db=3&db=7"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=3"),
        ("unix://:p@/run/redis.sock?timeout=2", "unix://:p@/run/redis.sock?db=3&timeout=2"),
    ):
        settings = load_settings("test", redis_url=SecretStr(given))
        assert settings.redis_url_with_db == expected
        assert parse_url(settings.redis_url_with_db)["db"] == 3


def test_backends_are_called_by_their_name_or_by_host_and_port() -> None:
    assert parse_backends("") == {}
    assert parse_backends(" http://a:8188/ , big=https://b ,http://c/comfy/,") == {
        "a:8188": "http://a:8188",
        "big": "https://b",
        "c": "http://c/comfy",
    }
    assert load_settings("test", comfyui_urls="http://a,http://b").backends == {"a": "http://a", "b": "http://b"}


def test_networks_are_read_and_a_wrong_one_is_named() -> None:
    assert load_settings("test").allowed_networks == ()
    settings = load_settings("test", input_networks=" 10.0.0.0/8, fd00::/8,192.168.1.5 ,")
    assert [str(network) for network in settings.allowed_networks] == ["10.0.0.0/8", "fd00::/8", "192.168.1.5/32"]
    with pytest.raises(WrongSettings, match=r"INPUT_NETWORKS: has '10\.1\.0\.0/8', .* 10\.0\.0\.0/8 is meant"):
        load_settings("test", input_networks="127.0.0.0/8, 10.1.0.0/8")


def test_folders_follow_data_dir(tmp_path: Path) -> None:
    assert load_settings("test", data_dir=None).data_path == ROOT / "env" / "data" / "test"
    settings = load_settings("test", data_dir=tmp_path, storage_dir="")
    assert (settings.data_path, settings.storage_path) == (tmp_path, tmp_path / "storage")


def test_a_request_that_is_no_http_is_a_line_in_the_log_and_no_alarm() -> None:
    def record(error: Exception) -> logging.LogRecord:
        return logging.LogRecord("aiohttp.server", logging.ERROR, "", 1, "from %s", ("x",), (type(error), error, None))

    nonsense, ours = record(HttpProcessingError(message="nonsense\nof two lines")), record(KeyError("a bug"))
    assert without_traceback_of_nonsense(nonsense)
    assert (nonsense.levelno, nonsense.exc_info) == (logging.INFO, None)
    assert nonsense.getMessage().startswith("a request was no HTTP: ")
    assert "\n" not in nonsense.getMessage()
    assert without_traceback_of_nonsense(ours)
    assert (ours.levelno, ours.exc_info is not None) == (logging.ERROR, True)
