"""Merging what backends offer: once for all that ask, and nobody waits long for what is read anew."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Catalog, read_catalog
from app.domain.errors import NodeClassNotFound, QueueUnavailable
from app.domain.heartbeats import backend_beat
from app.runtime.side_thread import SideThread
from app.services import inventory
from app.services.inventory import Inventory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Backends:
    """Backends that are known by a digest, which is the name of their one checkpoint; `reading` holds up readers."""

    def __init__(self) -> None:
        self.digests = {"a": "first"}
        self.read: Counter[str] = Counter()
        self.reading = asyncio.Event()
        self.reading.set()
        self.away = False

    async def now(self) -> Any:
        beats = [
            backend_beat(name, 0, live=True, fields={"catalog": digest, "healthy": True})
            for name, digest in self.digests.items()
        ]
        return SimpleNamespace(backends=beats)

    async def catalog(self, digest: str) -> Catalog:
        self.read[digest] += 1
        await self.reading.wait()
        if self.away:
            raise QueueUnavailable("Redis is away.")
        described = {"input": {"required": {"ckpt_name": [[digest]]}}}
        return read_catalog({"CheckpointLoaderSimple": described, f"Node {digest}": {}})


@pytest.fixture
async def backends() -> Backends:
    return Backends()


@pytest.fixture
async def merged(backends: Backends) -> AsyncIterator[Inventory]:
    sideline = SideThread()
    found: Any = backends
    made = Inventory(found, found, sideline)
    yield made
    await made.close()
    sideline.close()


async def checkpoints(merged: Inventory) -> list[str]:
    return [each["name"] for each in json.loads(await merged.models(["checkpoints"]))["checkpoints"]]


async def test_many_that_ask_at_once_have_it_read_once(backends: Backends, merged: Inventory) -> None:
    backends.reading.clear()
    asking = [asyncio.create_task(checkpoints(merged)) for _ in range(20)]
    while not backends.read:
        await asyncio.sleep(0)
    backends.reading.set()
    assert await asyncio.gather(*asking) == [["first"]] * 20
    assert await checkpoints(merged) == ["first"]
    assert backends.read == {"first": 1}


async def test_while_something_new_is_read_the_list_before_is_told(
    backends: Backends, merged: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "PATIENCE_S", 0.01)
    assert await checkpoints(merged) == ["first"]
    backends.digests["a"] = "second"
    backends.reading.clear()
    assert await checkpoints(merged) == await checkpoints(merged) == ["first"]
    assert json.loads(await merged.nodes("node", 10, None))["items"][0]["class"] == "Node first"
    backends.reading.set()
    while await checkpoints(merged) != ["second"]:
        await asyncio.sleep(0)
    assert backends.read == {"first": 1, "second": 1}


async def test_what_is_read_quickly_is_told_at_once(backends: Backends, merged: Inventory) -> None:
    assert await checkpoints(merged) == ["first"]
    backends.digests |= {"a": "second", "b": "third"}
    assert await checkpoints(merged) == ["second", "third"]
    with pytest.raises(NodeClassNotFound):
        await merged.node("Node first")
    assert json.loads(await merged.node("Node third"))["backends"] == ["b"]


async def test_a_fault_is_told_to_all_that_wait_and_the_next_one_tries_again(
    backends: Backends, merged: Inventory
) -> None:
    backends.away = True
    found = await asyncio.gather(*(checkpoints(merged) for _ in range(3)), return_exceptions=True)
    assert {type(each) for each in found} == {QueueUnavailable}
    backends.away = False
    assert await checkpoints(merged) == ["first"]


async def test_a_description_is_made_once(backends: Backends, merged: Inventory) -> None:
    first = await merged.node("Node first")
    reads = backends.read["first"]
    assert await merged.node("Node first") == first
    assert backends.read["first"] == reads


async def test_few_descriptions_are_kept(
    backends: Backends, merged: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_MOST_DESCRIBED", 1)
    for name in ("Node first", "CheckpointLoaderSimple", "Node first"):
        await merged.node(name)
    # Read for the list, and each time for a description.
    assert backends.read["first"] == 4
