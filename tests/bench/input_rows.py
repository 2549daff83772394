"""Jobs with an input file: what it costs to give it to the backend, and whether the backend waits for it."""

from __future__ import annotations

import struct
import time
import zlib
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.bench.client import Unexpected
from tests.bench.job_rows import run_at_once, run_one, share
from tests.bench.report import Figure
from tests.bench.service import PICTURE
from tests.bench.workload import USER, lasting, pictures

if TYPE_CHECKING:
    from tests.bench.service import Service
    from tests.bench.sizes import Sizes
    from tests.bench.workload import Graph

_END: Final = b"\0\0\0\0IEND\xaeB`\x82"


async def inputs(service: Service, sizes: Sizes) -> list[Figure]:
    """Run jobs that load a picture of 4 MB: one that the backend has as its own, and one that a client handed over.

    The first figure's limit is the same job with the backend's own file. Of the last one it is the same jobs without
    a file: each has another picture to be sent, while the job before it runs.
    """
    async with service.session.get(f"{service.standin_url}/view?filename={PICTURE}&type=input") as response:
        picture = await response.read()
    upload = await _uploaded(service, picture)
    first_ms = 1000 * (await run_one(service, _loading(f"upload:{upload}")))[1]
    ours, own = [], []
    for _ in range(sizes.saving_jobs):
        ours.append(1000 * (await run_one(service, _loading(f"upload:{upload}")))[1])
        own.append(1000 * (await run_one(service, _loading(PICTURE)))[1])
    others = [await _uploaded(service, _with_text(picture, str(number))) for number in range(sizes.heavy_jobs)]
    before = len(await service.executions())
    await run_at_once(service, [_beside(lasting(sizes.busy_s[1]), f"upload:{each}") for each in others])
    between = await service.executions()
    await run_at_once(service, [_beside(lasting(sizes.busy_s[1]), PICTURE) for _ in others])
    after = await service.executions()
    named = f"{len(others)} jobs of {sizes.busy_s[1]:g} s, each with 4 MB of its own to be sent"
    return [
        Figure("POST sent → `completed`, a job with 4 MB that the backend has: p50", median(ours), "ms", median(own)),
        Figure("the same, and they are sent first", first_ms, "ms", median(own)),
        Figure(
            f"{named}: share of time that the backend works", share(between[before:]), "", share(after[len(between) :])
        ),
    ]


async def _uploaded(service: Service, data: bytes) -> str:
    async with service.session.post(f"{service.api_url}/api/v1/uploads?user_id={USER}", data=data) as response:
        told = await response.json()
        if response.status not in (200, 201):
            raise Unexpected(f"an upload was answered with {response.status}: {told}")
        return str(told["upload_id"])


def _loading(image: str) -> Graph:
    graph = pictures(1)
    graph["4"]["inputs"]["image"] = image
    # No two alike, so that nothing is cached: the time makes another name of the file that is saved.
    graph["5"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["6", 0], "filename_prefix": f"input-{time.monotonic_ns()}"},
    }
    graph["6"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["4", 0], "upscale_method": "nearest-exact", "width": 64, "height": 64, "crop": "disabled"},
    }
    return graph


def _beside(graph: Graph, image: str) -> Graph:
    """Return the graph with a picture that is loaded besides."""
    loading = _loading(image)
    return graph | {f"9{node}": _renamed(each) for node, each in loading.items()}


def _renamed(node: dict[str, Any]) -> dict[str, Any]:
    linked = {name: [f"9{value[0]}", value[1]] for name, value in node["inputs"].items() if isinstance(value, list)}
    return node | {"inputs": node["inputs"] | linked}


def _with_text(png: bytes, text: str) -> bytes:
    """Return a PNG with a text chunk, which makes another file of it."""
    body = b"tEXtbench\0" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png.removesuffix(_END) + chunk + _END
