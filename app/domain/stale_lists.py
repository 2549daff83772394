"""What a list that was read a while ago cannot say no to: choices and node classes that may have appeared meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.graph_check import LACKS
from app.domain.hints import token
from app.domain.replacements import replaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Catalog
    from app.domain.errors import Fault
    from app.domain.workflow import Graph


def classes_in_doubt(
    graph: Graph, catalog: Catalog, faults: Sequence[Fault], pointer: str = "/workflow"
) -> frozenset[str]:
    """Return the node classes to be read again before these faults of the graph are believed.

    None when nothing is wrong that a new file or node class can mend.
    """
    lacks = [fault for fault in faults if fault.code in LACKS]
    if not lacks:
        return frozenset()
    executed = replaced(graph, catalog)
    nodes = {token(key): node for key, node in executed.items()}
    keys = (fault.pointer.removeprefix(f"{pointer}/").partition("/")[0] for fault in lacks)
    return frozenset(nodes[key]["class_type"] for key in keys if key in nodes)
