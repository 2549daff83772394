"""Outages of PostgreSQL and Redis: what is waited out, and what callers get to see of it."""

from __future__ import annotations

import pytest
from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.domain.errors import DatabaseUnavailable, QueueUnavailable
from app.messaging.redis_connection import redis_errors_as
from app.storage import outages
from app.storage.outages import repeat_until_available


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat without a delay."""
    monkeypatch.setattr(outages, "FIRST_DELAY_S", 0.0)


async def test_a_step_is_repeated_until_postgresql_is_back(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def step() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DatabaseUnavailable("away")
        return "done"

    assert await repeat_until_available(step, "job 7 waits") == "done"
    assert [record.getMessage() for record in caplog.records] == ["job 7 waits: away"] * 3


async def test_another_error_ends_the_repetition() -> None:
    async def step() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await repeat_until_available(step, "job 7 waits")


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("closed"),
        RedisTimeoutError("slow"),
        BusyLoadingError("loading"),
        AuthenticationError("who?"),
        ResponseError("OOM command not allowed"),
        OSError("refused"),
        TimeoutError("slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_redis_raises_is_unavailable_to_callers_with_their_message(error: Exception) -> None:
    with (
        pytest.raises(QueueUnavailable, match=r"^The queue is away\.$") as raised,
        redis_errors_as("The queue is away."),
    ):
        raise error
    assert raised.value.__cause__ is error


def test_an_error_of_our_own_passes_through() -> None:
    with pytest.raises(KeyError), redis_errors_as("The queue is away."):
        raise KeyError("ours")
