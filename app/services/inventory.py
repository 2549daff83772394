"""What there is to make jobs of, over all backends: models and node classes, merged once and kept as JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault, NodeClassNotFound
from app.domain.hints import nearest, shown
from app.domain.model_lists import MODEL_KINDS, Offering, alike, in_order, model_list
from app.domain.node_descriptions import described, node_list, weight_of
from app.domain.text import word
from app.runtime.end_tasks import end_tasks
from app.runtime.json_text import dump_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.domain.heartbeats import BackendBeat
    from app.domain.model_lists import ModelKind
    from app.messaging.registry import Registry
    from app.runtime.side_thread import SideThread
    from app.services.live_fleet import LiveFleet

_MOST_MERGED: Final = 2
"""Maximum number of merged offers in memory: the present one, and the one before while backends read theirs again."""
_MOST_DESCRIBED: Final = 256
_MOST_DESCRIBED_BYTES: Final = 8 * 2**20
"""Maximum number, and total size, of the descriptions of single classes that a merged offer keeps."""
_BYTES_OF_CLASS: Final = 2_000
_BYTES_OF_VALUE: Final = 50
"""About the JSON of a class, and of one value in its description."""
_BITS: Final = 256
_MOST_SOUGHT: Final = 300
"""Characters of an unknown class that are looked at."""
_COMPARED: Final = 100
"""Maximum number of classes that are compared with an unknown one, letter by letter."""
PATIENCE_S: Final = 1.0
"""Seconds for which a request waits for the present offers, when it can have those before."""
_LOOK_AGAIN_S: Final = 2.0
"""Seconds for which a merged offer holds in which one of a backend's is missing, because it could not be read."""

log = logging.getLogger(__name__)

Source = tuple[str, str]
"""A backend, and the digest of what it offers."""


@dataclass(slots=True)
class _Names:
    """The names of one kind of models; entries are JSON."""

    written: list[bytes]
    """Each name as it is where it is loaded nowhere."""
    names: list[str]
    backends: list[list[str]]
    places: dict[str, int]
    """Name as heartbeats have it → its place in the lists."""


@dataclass(slots=True)
class _Class:
    """A node class as lists have it."""

    name: str
    order: tuple[str, str]
    sought_in: str
    """Class, name and category in lower case, with NUL between them, which no search has."""
    written: bytes


@dataclass(slots=True)
class _Merged:
    """What some backends offer together; nothing in it refers to their catalogs, which take much memory."""

    sources: tuple[Source, ...]
    backends: list[str]
    """Those whose offers could be read."""
    models: dict[ModelKind, _Names]
    classes: list[_Class]
    orders: list[tuple[str, str]]
    pairs: dict[str, int]
    """Class → its pairs of letters, each a bit of a number: which names are most alike is quickly found so."""
    until: float = float("inf")
    """The moment, by the monotonic clock, at which to look again for what is missing; infinite when nothing is."""
    lists: dict[ModelKind, tuple[Any, bytes]] = field(default_factory=dict)
    """Kind → what was warm when the list was written, and the list."""
    described: dict[str, bytes] = field(default_factory=dict)
    """Class → its description, the one longest unused first."""


class Inventory:
    """Models and node classes over all live backends, or, with none alive, as they were last seen.

    Methods raise `QueueUnavailable` while Redis is away, and `Busy` when too much waits for the side thread.
    """

    def __init__(self, registry: Registry, fleet: LiveFleet, sideline: SideThread) -> None:
        self._registry = registry
        self._fleet = fleet
        self._sideline = sideline
        self._merging: asyncio.Task[_Merged] | None = None
        self._merged: dict[tuple[Source, ...], _Merged] = {}

    async def models(self, kinds: Iterable[ModelKind] = ()) -> bytes:
        """Return the models of these kinds, by default all, as JSON."""
        beats, live = await self._telling()
        merged = await self._of(beats)
        asked = set(kinds) or set(MODEL_KINDS)
        warm = _warm(beats)
        lists = {kind: _list(merged, kind, warm.get(kind, ())) for kind in MODEL_KINDS if kind in asked}
        return _joined({"live": live, "backends": merged.backends}, lists)

    async def nodes(self, search: str, limit: int, cursor: str | None) -> bytes:
        """Return a page of the node classes in whose name, shown name or category `search` is, as JSON.

        `cursor` is the class after which to go on.
        """
        beats, live = await self._telling()
        merged = await self._of(beats)
        sought = search.casefold()
        found = [each for each in merged.classes if sought in each.sought_in] if sought else merged.classes
        orders = [each.order for each in found] if sought else merged.orders
        start = bisect_right(orders, in_order(cursor)) if cursor is not None else 0
        page = found[start : start + limit]
        following = page[-1].name if start + limit < len(found) else None
        told = {
            "live": live,
            "backends": merged.backends,
            "total": len(found),
            "limit": limit,
            "next_cursor": following,
        }
        return _joined(told, {"items": _array(each.written for each in page)})

    async def node(self, name: str) -> bytes:
        """Return all that is said of a node class, as JSON; raises `NodeClassNotFound`."""
        beats, live = await self._telling()
        merged = await self._of(beats)
        if name not in merged.pairs:
            raise _not_found(name, merged)
        text = merged.described.pop(name, None)
        if text is None:
            offerings = await self._offerings(merged.sources)
            size = weight_of(name, offerings) * _BYTES_OF_VALUE
            text = await self._sideline.do(size, _described, name, offerings)
            if text is None:
                # What it was read from has expired a moment ago.
                raise _not_found(name, merged)
        _keep(merged.described, name, text)
        return b'{"live":%b,%b' % (b"true" if live else b"false", text[1:])

    async def close(self) -> None:
        """Read nothing any more."""
        await end_tasks([self._merging] if self._merging is not None else [])

    async def _telling(self) -> tuple[list[BackendBeat], bool]:
        """Return the backends that tell what they offer, of the live ones if any is, and whether they are live."""
        known = [beat for beat in (await self._fleet.now()).backends if beat.catalog]
        live = [beat for beat in known if beat.live]
        return live or known, bool(live)

    async def _of(self, beats: Sequence[BackendBeat]) -> _Merged:
        """Return what these backends offer together.

        Reading 30 MB that are new takes seconds. Meanwhile requests get the list before; without one, all of them wait
        for the same reading.
        """
        sources, until = _sources(beats), time.monotonic() + PATIENCE_S
        while (merged := self._known(sources)) is None:
            if self._merging is None or self._merging.done():
                self._merging = asyncio.create_task(self._merge(sources), name="inventory")
                self._merging.add_done_callback(_note)
            before = next(reversed(self._merged.values()), None)
            patience_s = max(0.0, until - time.monotonic()) if before is not None else None
            done, _ = await asyncio.wait([self._merging], timeout=patience_s)
            for task in done:
                merged = task.result()
                if merged.sources == sources:
                    return merged
            if not done and before is not None:
                return before
        return merged

    async def _merge(self, sources: tuple[Source, ...]) -> _Merged:
        offerings = await self._offerings(sources)
        size = _BYTES_OF_CLASS * sum(len(each.catalog.nodes) for each in offerings)
        merged = await self._sideline.do(size, _merge_all, sources, offerings)
        if len(merged.backends) < len(sources):
            merged.until = time.monotonic() + _LOOK_AGAIN_S
        self._merged.pop(sources, None)
        while len(self._merged) >= _MOST_MERGED:
            del self._merged[next(iter(self._merged))]
        self._merged[sources] = merged
        return merged

    def _known(self, sources: tuple[Source, ...]) -> _Merged | None:
        merged = self._merged.get(sources)
        return merged if merged is not None and time.monotonic() < merged.until else None

    async def _offerings(self, sources: tuple[Source, ...]) -> list[Offering]:
        """Return what the backends offer, as far as it can be read, in the order of the first backend of each."""
        found = [(backends, await self._registry.catalog(digest)) for digest, backends in alike(sources).items()]
        return [Offering(backends, catalog) for backends, catalog in found if catalog is not None]


def _sources(beats: Iterable[BackendBeat]) -> tuple[Source, ...]:
    return tuple(sorted((beat.name, beat.catalog) for beat in beats if beat.catalog))


def _warm(beats: Iterable[BackendBeat]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return folder → model and backend, of all that are probably in memory."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for beat in (beat for beat in beats if beat.live and beat.healthy):
        for name in beat.warm:
            folder, _, model = name.partition("/")
            found[folder] = (*found.get(folder, ()), (model, beat.name))
    return found


def _note(task: asyncio.Task[_Merged]) -> None:
    """Take note of a fault that no request waited for."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        log.debug("what the backends offer could not be merged: %s", fault)


def _merge_all(sources: tuple[Source, ...], offerings: list[Offering]) -> _Merged:
    classes = [_class(each) for each in node_list(offerings)]
    return _Merged(
        sources=sources,
        backends=sorted(backend for each in offerings for backend in each.backends),
        models={kind: _names(kind, offerings) for kind in MODEL_KINDS},
        classes=classes,
        orders=[each.order for each in classes],
        pairs={each.name: _pairs(each.name) for each in classes},
    )


def _names(kind: ModelKind, offerings: list[Offering]) -> _Names:
    found = model_list(kind, offerings)
    return _Names(
        written=[_entry(kind, name, backends) for name, backends in found],
        names=[name for name, _ in found],
        backends=[backends for _, backends in found],
        places={word(name): place for place, (name, _) in enumerate(found)},
    )


def _class(told: dict[str, Any]) -> _Class:
    name = told["class"]
    sought_in = "\0".join((name, told["display_name"], told["category"])).casefold()
    return _Class(name, in_order(name), sought_in, dump_bytes(told))


def _entry(kind: ModelKind, name: str, backends: list[str], warm_on: Sequence[str] = ()) -> bytes:
    known = kind not in ("samplers", "schedulers")
    return dump_bytes({"name": name, "backends": backends, "warm_on": list(warm_on) if known else None})


def _list(merged: _Merged, kind: ModelKind, of: tuple[tuple[str, str], ...]) -> bytes:
    """Return the list of a kind; it is written anew only when another model is warm. `of` are models and backends."""
    written_for, text = merged.lists.get(kind, (None, b""))
    if written_for != of:
        names = merged.models[kind]
        warm_on: dict[int, list[str]] = {}
        for model, backend in of:
            place = names.places.get(model)
            if place is not None and backend in names.backends[place]:
                warm_on.setdefault(place, []).append(backend)
        entries = list(names.written)
        for place, backends in warm_on.items():
            entries[place] = _entry(kind, names.names[place], names.backends[place], sorted(backends))
        text = _array(entries)
        merged.lists[kind] = (of, text)
    return text


def _described(name: str, offerings: list[Offering]) -> bytes | None:
    told = described(name, offerings)
    return dump_bytes(told) if told is not None else None


def _keep(kept: dict[str, bytes], name: str, text: bytes) -> None:
    if len(text) > _MOST_DESCRIBED_BYTES:
        return
    kept[name] = text
    while len(kept) > _MOST_DESCRIBED or sum(map(len, kept.values())) > _MOST_DESCRIBED_BYTES:
        del kept[next(iter(kept))]


def _not_found(name: str, merged: _Merged) -> NodeClassNotFound:
    wanted = _pairs(name[:_MOST_SOUGHT])
    likely = nearest(
        name, nlargest(_COMPARED, merged.pairs, key=lambda each: (merged.pairs[each] & wanted).bit_count())
    )
    detail = f"No backend has a node class called {shown(name)!r}."
    return NodeClassNotFound(detail, [Fault("node_class", NodeClassNotFound.code, detail, suggestion=likely)])


def _pairs(name: str) -> int:
    found = 0
    for one, other in pairwise(name.casefold()):
        found |= 1 << (31 * ord(one) + ord(other)) % _BITS
    return found


def _array(entries: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(entries)


def _joined(told: dict[str, Any], lists: dict[Any, bytes]) -> bytes:
    """Return an object of these members and of these lists, which are JSON already."""
    members = [dump_bytes(told)[1:-1], *(b'"%b":%b' % (name.encode(), text) for name, text in lists.items())]
    return b"{%b}" % b",".join(members)
