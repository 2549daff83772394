"""Dependencies between the nodes of a graph: an order, cycles, and how much of them ComfyUI has to walk through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.errors import Fault
from app.domain.hints import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

MAX_CHAIN: Final = 900
"""Maximum number of nodes in a chain. ComfyUI follows each chain by recursion, also through nodes that no output needs.
Some 970 overflow its stack and end its execution thread (measured: 900 run, 1,000 are refused or end it)."""
MAX_ANCESTRY: Final = 500_000
"""Maximum number of pairs of a node and a node it depends on, directly or indirectly. ComfyUI lists all pairs before it
begins: 400,000, one chain of 900, took half a minute without any response, 750,000 three minutes and a gigabyte."""
_NAMED: Final = 10
"""Maximum number of nodes of a cycle that are named."""


def size_fault(targets: Mapping[str, Sequence[str]], pointer: str) -> Fault | None:
    """Return the fault of a graph that is more than ComfyUI can walk through. `targets`: node id → its dependencies.

    One that is no key of it is not there, which is for others to find.
    """
    if len(targets) ** 2 <= MAX_ANCESTRY:
        # So few are within both limits however they depend on each other.
        return None
    deepest, pairs = _measure(targets, knots(targets))
    if deepest > MAX_CHAIN:
        detail = f"{deepest} nodes depend one on the other in one chain; ComfyUI bears about {MAX_CHAIN}."
        return Fault(pointer, "too_long_chain", detail)
    if pairs > MAX_ANCESTRY:
        detail = (
            f"So many nodes depend on so many others, {pairs} pairs, that ComfyUI would take minutes and gigabytes "
            f"before it begins; at most {MAX_ANCESTRY} are taken. Split the workflow."
        )
        return Fault(pointer, "too_entangled", detail)
    return None


def knots(targets: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the nodes, each behind those that it depends on; those that depend on each other stand together.

    Tarjan's algorithm, without recursion.
    """
    found: list[list[str]] = []
    at: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: dict[str, None] = {}
    for root in targets:
        if root in at:
            continue
        todo: list[tuple[str, Iterator[str]]] = []
        at[root] = low[root] = len(at)
        open_[root] = None
        todo.append((root, iter(targets[root])))
        while todo:
            key, left = todo[-1]
            target = next(left, None)
            if target is not None:
                if target in targets and target not in at:
                    at[target] = low[target] = len(at)
                    open_[target] = None
                    todo.append((target, iter(targets[target])))
                elif target in open_:
                    low[key] = min(low[key], at[target])
                continue
            todo.pop()
            if todo:
                above = todo[-1][0]
                low[above] = min(low[above], low[key])
            if low[key] == at[key]:
                knot = []
                while True:
                    member, _ = open_.popitem()
                    knot.append(member)
                    if member == key:
                        break
                found.append(knot)
    return found


def cycle_in(targets: Mapping[str, Collection[str]]) -> list[str]:
    """Return a cycle, its first node again at the end; the one that the first of the nodes comes to, or nothing."""
    tied = [knot for knot in knots(targets) if len(knot) > 1 or knot[0] in targets[knot[0]]]
    inside = {key: members for knot in tied for members in [set(knot)] for key in knot}
    if not inside:
        return []
    # Each has a target in its own component: following the targets leads back to the start.
    key = next(each for each in targets if each in inside)
    path: dict[str, None] = {}
    while key not in path:
        path[key] = None
        key = next(each for each in targets[key] if each in inside[key])
    walked = list(path)
    return [*walked[walked.index(key) :], key]


def cycle_words(cycle: Sequence[str]) -> str:
    """Return a sentence that names the nodes of a cycle, or the first and the last of very many."""
    named = [shown(key, 60) for key in cycle]
    if len(named) > _NAMED:
        named = [*named[: _NAMED - 1], "…", named[-1]]
    return f"The nodes {' → '.join(named)} form a cycle."


def _measure(targets: Mapping[str, Sequence[str]], order: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return the length of the longest chain, and the number of pairs of a node and one it depends on.

    Those that depend on each other count as a chain of all of them: so far a walk through them may go.
    """
    depth: dict[str, int] = {}
    above: dict[str, int] = {}
    # Sets of nodes as the bits of a number: a thousand are joined in a step.
    bit = {key: 1 << place for place, key in enumerate(key for knot in order for key in knot)}
    for knot in order:
        upstream, deepest, own = 0, 0, 0
        for key in knot:
            own |= bit[key]
            for target in targets[key]:
                if target in depth:
                    upstream |= above[target] | bit[target]
                    deepest = max(deepest, depth[target])
        for key in knot:
            above[key] = upstream | own if len(knot) > 1 else upstream
            depth[key] = deepest + len(knot)
    return max(depth.values(), default=0), sum(each.bit_count() for each in above.values())
