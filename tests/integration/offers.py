"""Backends that tell what they offer, without a worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from app.domain.offers import read_offer
from app.keys import REGISTRY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    Client = TestClient[Any, Any]


XL = "sd_xl_base_1.0.safetensors"


def loader(*checkpoints: str, **nodes: Any) -> bytes:
    """Return what a backend offers that has these checkpoints, and these classes besides."""
    usual = {"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [list(checkpoints)]}}, "output": ["MODEL"]}}
    return read_offer(json.dumps(usual | nodes).encode()).described


async def tell(client: Client, name: str, described: bytes, **beat: Any) -> str:
    """Write the heartbeat of a backend by hand, and what it offers; return the digest of that."""
    registry = client.app[REGISTRY]
    digest = await registry.put_catalog(described)
    await registry.beat("w", {"backends": [name]}, {name: {"catalog": digest, "healthy": True, "driver": "w"} | beat})
    return str(digest)
