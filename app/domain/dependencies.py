"""Who depends on whom in a graph: an order, a cycle, and how much there is of it for ComfyUI to walk through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.errors import Fault
from app.domain.hints import shown, token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_CHAIN: Final = 900
"""Nodes one behind the other. ComfyUI walks up each chain by recursion, of nodes that nothing needs as well: some 970
are more than its stack holds, and its execution thread ends (measured: 900 run, 1,000 are refused or end it)."""
MAX_ANCESTRY: Final = 500_000
"""Pairs of a node and one that it depends on, at whatever distance. ComfyUI writes all of them down before it begins:
400,000, one chain of 900, took half a minute without a sign of life, 750,000 three minutes and a gigabyte."""
_NAMED: Final = 10
"""So many nodes of a cycle are named."""


def dependency_fault(targets: Mapping[str, Sequence[str]], pointer: str) -> Fault | None:
    """Return what is wrong with a graph as a whole. `targets`: node id → those that it depends on.

    One that is no key of it is not there, which is for others to find.
    """
    order, cycle = _walk(targets)
    if cycle:
        named = [shown(key, 60) for key in cycle]
        if len(named) > _NAMED:
            named = [*named[: _NAMED - 1], "…", named[-1]]
        detail = f"The nodes {' → '.join(named)} form a cycle."
        return Fault(f"{pointer}/{token(cycle[0])}", "cycle", detail)
    if len(targets) <= MAX_CHAIN:
        # So few are within both limits however they depend on each other.
        return None
    deepest, pairs = _measure(targets, order)
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


def _walk(targets: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the nodes, each behind those that it depends on; and a cycle, its first node again at the end, if any."""
    order: dict[str, None] = {}
    for root in targets:
        if root in order:
            continue
        path = {root: iter(targets[root])}
        stack = [root]
        while stack:
            key = stack[-1]
            target = next(path[key], None)
            if target is None:
                stack.pop()
                del path[key]
                order[key] = None
            elif target in path:
                return [], [*stack[stack.index(target) :], target]
            elif target in targets and target not in order:
                path[target] = iter(targets[target])
                stack.append(target)
    return list(order), []


def _measure(targets: Mapping[str, Sequence[str]], order: Sequence[str]) -> tuple[int, int]:
    """Return the length of the longest chain, and the number of pairs of a node and one it depends on."""
    depth: dict[str, int] = {}
    above: dict[str, int] = {}
    # Sets of nodes as the bits of a number: a thousand are joined in a step.
    bit = {key: 1 << place for place, key in enumerate(order)}
    for key in order:
        upstream, deepest = 0, 0
        for target in targets[key]:
            if target in depth:
                upstream |= above[target] | bit[target]
                deepest = max(deepest, depth[target])
        above[key], depth[key] = upstream, deepest + 1
    return max(depth.values(), default=0), sum(each.bit_count() for each in above.values())
