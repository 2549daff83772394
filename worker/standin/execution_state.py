"""What the execution thread and the run of a prompt share: the server's parts, and where the thread is."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor as Threads
from dataclasses import dataclass, field
from typing import Any

from worker.standin.assets import Assets
from worker.standin.caching import ResultCache
from worker.standin.console import Console
from worker.standin.faults import Faults
from worker.standin.files import Folders
from worker.standin.model_memory import ModelMemory
from worker.standin.nodes import NodeType
from worker.standin.options import StandinOptions
from worker.standin.prompt_queue import PromptQueue
from worker.standin.sockets import Sockets
from worker.standin.versions import Version


@dataclass(kw_only=True)
class ExecutionState:
    """The parts of the server that prompts use, and the state that outlives a prompt."""

    options: StandinOptions
    version: Version
    types: Mapping[str, NodeType]
    queue: PromptQueue
    sockets: Sockets
    faults: Faults
    folders: Folders
    threads: Threads
    console: Console
    cache: ResultCache
    assets: Assets
    models: ModelMemory = field(default_factory=ModelMemory)
    afterwards: set[asyncio.Task[None]] = field(default_factory=set)
    """What nodes have left to be done after them."""
    objects: dict[str, Any] = field(default_factory=dict)
    """What nodes have made that outlives their prompt, by node id."""
    interrupted: bool = False
    client_id: object = None
    current_node: str | None = None
    """The node that runs, told to a client that connects again."""
    dead: bool = False
    unload_models: bool = False
    free_memory: bool = False
