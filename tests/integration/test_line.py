"""The connection for what every job waits for: to a real Redis, to one that is cut off, and to one that hangs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from integration.tcp_proxy import TcpProxy
from pydantic import SecretStr
from samples import settings_of_redis

from app.messaging.redis_connection import REDIS_ERRORS, Line, close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.embedded.services import Running
    from app.settings import Settings


@pytest.fixture
def settings(servers: Running) -> Settings:
    return settings_of_redis(servers)


@asynccontextmanager
async def line_to(settings: Settings, url: str, **changes: object) -> AsyncIterator[Line]:
    line = Line(settings.model_copy(update={"redis_url": SecretStr(url), **changes}))
    yield line
    await close(line)


async def test_commands_that_come_together_share_one_connection_and_each_gets_its_own_answer(
    settings: Settings,
) -> None:
    proxy, url = await TcpProxy.before(settings.redis_url.get_secret_value())
    async with line_to(settings, url) as line:
        echo = line.register_script("return ARGV[1]")
        said = await asyncio.gather(*(echo(args=[str(number)]) for number in range(50)))
        assert said == [str(number).encode() for number in range(50)]
        assert proxy.accepted == 1
    await proxy.cut()


async def test_after_a_cut_it_connects_anew_by_itself(settings: Settings) -> None:
    proxy, url = await TcpProxy.before(settings.redis_url.get_secret_value())
    async with line_to(settings, url) as line:
        assert await line.ping()
        await proxy.cut()
        with pytest.raises(REDIS_ERRORS):
            await line.ping()
        await proxy.restore()
        assert await line.ping()
    await proxy.cut()


async def test_while_redis_hangs_everybody_is_told_within_the_limit_of_one_command(settings: Settings) -> None:
    async def hear_and_say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    silent = await asyncio.start_server(hear_and_say_nothing, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with line_to(settings, url, redis_timeout_seconds=0.5) as line:
        # One after the other they would take until the test's own time is over.
        errors = await asyncio.gather(*(line.ping() for _ in range(500)), return_exceptions=True)
        assert {type(error) for error in errors} == {TimeoutError}
    silent.close()
    await silent.wait_closed()


async def test_a_caller_who_goes_away_leaves_no_answer_to_the_next_one(settings: Settings) -> None:
    async with line_to(settings, settings.redis_url.get_secret_value()) as line:
        echo = line.register_script("return ARGV[1]")
        await echo(args=["first"])
        for number in range(20):
            leaving = asyncio.create_task(echo(args=["mine"]))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            leaving.cancel()
            assert await echo(args=[f"yours {number}"]) == f"yours {number}".encode()
