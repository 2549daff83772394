"""What is known of a job when it is accepted, and decides when and where it runs best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.job_cost import work_of
from app.domain.loaded_models import LoadedModels, models_of
from app.domain.replacements import replaced
from app.domain.workflow_key import workflow_key

if TYPE_CHECKING:
    from app.domain.catalog import Catalog
    from app.domain.workflow import Graph


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the graph of a job says of it."""

    loaded: LoadedModels
    workflow_key: str
    work: float | None
    """As `work_of` counts it."""


def facts_of(graph: Graph, catalog: Catalog) -> JobFacts:
    """Return the facts of a graph that has been checked against this catalog, as such a backend executes it."""
    executed = replaced(graph, catalog)
    return JobFacts(models_of(executed, catalog), workflow_key(executed), work_of(executed))
