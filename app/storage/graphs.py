"""Reads of jobs' graphs: a whole job to run or to send again, JSON text for the API, short graphs for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import JobNotFound
from app.runtime.json_text import as_sent, load_kept, name_of
from app.storage.columns import WHOLE, job_of

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.domain.workflow import Graph

TITLE_CHARACTERS: Final = 200
_STORED_PER_CHARACTER: Final = 8
"""Maximum number of bytes that PostgreSQL stores for one character of JSON. A graph whose stored size exceeds the
limit times this is too long, which is known without reading it."""

_OWN: Final = "(user_id = $2 OR $2::text IS NULL)"
"""Whether a job is the owner's, where there is one."""
_WHOLE: Final = f"SELECT {WHOLE} FROM generation_jobs WHERE id = $1 AND {_OWN}"  # noqa: S608  # names of our own
_ASKED: Final = f"SELECT workflow::text, extra_pnginfo::text FROM generation_jobs WHERE id = $1 AND {_OWN}"  # noqa: S608
_SENT: Final = f"""
    SELECT (
        SELECT graph::text FROM job_attempts WHERE job_id = $1 AND graph IS NOT NULL ORDER BY number DESC LIMIT 1
    ) AS graph FROM generation_jobs WHERE id = $1 AND {_OWN}"""  # noqa: S608


def _short(column: str) -> str:
    """Return the SQL of a graph as text, null if it has more than `$2` characters."""
    return f"""CASE WHEN pg_column_size({column}) <= $2::int * {_STORED_PER_CHARACTER}
        AND length({column}::text) <= $2 THEN {column}::text END"""


_SHOWN: Final = f"""
    SELECT {_short("asked.workflow")} AS asked, {_short("sent.graph")} AS sent, sent.graph IS NOT NULL AS was_sent,
        CASE WHEN asked.workflow IS NULL THEN 0
            ELSE (SELECT count(*) FROM json_object_keys(asked.workflow)) END AS asked_nodes,
        CASE WHEN $3::text IS NOT NULL THEN left(sent.graph #>> ARRAY[$3, '_meta', 'title'], {TITLE_CHARACTERS}) END
            AS title,
        CASE WHEN $3::text IS NOT NULL THEN left(sent.graph #>> ARRAY[$3, 'class_type'], {TITLE_CHARACTERS}) END
            AS class_type
    FROM generation_jobs AS asked LEFT JOIN LATERAL (
        SELECT graph FROM job_attempts WHERE job_id = asked.id AND graph IS NOT NULL ORDER BY number DESC LIMIT 1
    ) AS sent ON true
    WHERE asked.id = $1 AND (asked.user_id = $4 OR $4::text IS NULL)"""  # noqa: S608  # of our own words only


@dataclass(frozen=True, slots=True)
class AskedGraph:
    """What a client sent that can be long, as JSON text; None of what it did not send."""

    workflow: str | None
    extra_pnginfo: str | None


@dataclass(frozen=True, slots=True)
class ShownGraphs:
    """What the page shows of a job's graphs. One that is long is None, and linked."""

    asked: Graph | None
    asked_nodes: int
    """How many nodes the client's graph has; 0 without one."""
    sent: Graph | None
    was_sent: bool
    node_title: str | None
    """The title of the node that was asked about, where it has one beside its class."""


async def read_whole(connection: Any, job_id: int, owner: str | None) -> Job:
    """Return a job with its graph, or raise `JobNotFound`; through the driver itself, as below.

    Another's than `owner`'s is not found, unless that is None; as below.
    """
    row = await connection.fetchrow(_WHOLE, job_id, owner)
    if row is None:
        raise JobNotFound([job_id])
    return job_of(row)


async def read_asked(connection: Any, job_id: int, owner: str | None) -> AskedGraph:
    """Return what the client sent that can be long; nothing of a job that is gone."""
    row = await connection.fetchrow(_ASKED, job_id, owner)
    if row is None:
        return AskedGraph(None, None)
    return AskedGraph(_sent(row["workflow"]), _sent(row["extra_pnginfo"]))


async def read_sent(connection: Any, job_id: int, owner: str | None) -> str | None:
    """Return the graph as it was last sent to ComfyUI, as JSON text; None before that, `JobNotFound` for no job."""
    row = await connection.fetchrow(_SENT, job_id, owner)
    if row is None:
        raise JobNotFound([job_id])
    return _sent(row["graph"])


async def read_shown(
    connection: Any, job_id: int, owner: str | None, most_characters: int, node: str | None
) -> ShownGraphs:
    """Return what the page shows, graphs of so many characters at most, and the title of the node at work."""
    row = await connection.fetchrow(_SHOWN, job_id, most_characters, node, owner)
    if row is None:
        raise JobNotFound([job_id])
    title = name_of(row["title"]) if row["title"] and row["title"] != row["class_type"] else None
    return ShownGraphs(_read(row["asked"]), row["asked_nodes"], _read(row["sent"]), row["was_sent"], title or None)


def _read(graph: str | None) -> Graph | None:
    found: Graph | None = load_kept(graph) if graph is not None else None
    return found


def _sent(graph: str | None) -> str | None:
    return as_sent(graph) if graph is not None else None
