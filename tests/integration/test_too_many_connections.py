"""How many connections one address may have, and all together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from integration.slow_clients import Bare

from app.keys import METRICS
from app.main import create_app
from app.web.connections import LOOPBACK, counted_as
from harness import ServedAsOurs, eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.settings import Settings

LIVE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LIVING = b'{"status": "live"}'


def counted(client: TestClient[Any, Any], name: str, **labels: str) -> float:
    return client.app[METRICS].registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("limit", "reason"), [({"max_connections_per_address": 3}, "address"), ({"max_connections": 3}, "total")]
)
async def test_a_connection_too_many_is_closed_at_once(
    settings: Settings, aiohttp_client: Any, limit: dict[str, int], reason: str
) -> None:
    server = ServedAsOurs(create_app(settings.model_copy(update=limit)), exempt=())
    client = await aiohttp_client(server)

    async def open_ones(count: int) -> bool:
        return counted(client, "genonaut_connections_open") == count

    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(Bare(client)) for _ in range(3)]
        await eventually(lambda: open_ones(3))
        for _ in range(5):
            async with Bare(client) as more:
                assert await more.rest() == b""
        assert counted(client, "genonaut_connections_refused_total", reason=reason) == 5
        for bare in (first, second):
            await bare.send(LIVE)
            await bare.receive(LIVING)
        third.socket.close()
        await eventually(lambda: open_ones(2))
        fourth = await stack.enter_async_context(Bare(client))
        await fourth.send(LIVE)
        await fourth.receive(LIVING)
    await eventually(lambda: open_ones(0))


async def test_this_machines_own_connections_are_not_counted(settings: Settings, aiohttp_client: Any) -> None:
    """A proxy has one address, whoever its clients are."""
    app = create_app(settings.model_copy(update={"max_connections_per_address": 1}))
    client = await aiohttp_client(ServedAsOurs(app))
    async with AsyncExitStack() as stack:
        for bare in [await stack.enter_async_context(Bare(client)) for _ in range(5)]:
            await bare.send(LIVE)
            await bare.receive(LIVING)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", None),
        ("127.1.2.3", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("10.0.0.7", None),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_addresses_of_one_customer_are_counted_together(address: str, name: str | None) -> None:
    assert counted_as(address, (*LOOPBACK, ip_network("10.0.0.0/24"))) == name
