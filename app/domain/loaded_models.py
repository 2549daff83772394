"""Which model files a graph needs in memory, and a key that is equal for graphs that load the same in the same way.

Told from the inputs of the nodes that some output needs. Not seen are models that are chosen otherwise than by the
name of a file: whole folders, what a node downloads by itself, embeddings and LoRAs within prompts. A LoRA of strength
0 counts: some nodes load it all the same.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from app.domain.model_files import looks_like_model, stem
from app.domain.values import link_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.domain.catalog import Catalog
    from app.domain.model_files import ModelInput
    from app.domain.workflow import Graph

MOST_MODELS: Final = 64
MOST_CHARS: Final = 255
_SWITCHES: Final = ("on", "active", "enabled")
"""Keys of an entry in a stack that is switched off when one of them is false."""
_SETTING: Final = re.compile("dtype|device|precision|quant|offload|^type$")
"""In the name of an input of a loader: its value says how, or where, a model lies in memory."""
_DIGEST_BYTES: Final = 16
_NONE: Final[Mapping[str, ModelInput]] = MappingProxyType({})


class LoadedModels(NamedTuple):
    """What has to be in memory for a graph."""

    models: tuple[str, ...] = ()
    """In order: folder and name of each file, `loras/x.safetensors`, as `ModelInput` has it; at most `MOST_MODELS`."""
    key: str | None = None
    """32 hexadecimal digits; None when no model is named. The settings of loaders are in it, all models are too."""
    loaders: tuple[str, ...] = ()
    """The ids of the nodes that load them."""


class _Loader(NamedTuple):
    """A node that names models."""

    node_id: str
    node: Mapping[str, Any]
    chosen: list[tuple[str, str]]
    """Input, without its number, and what is chosen there."""
    entered: list[tuple[str, str]]
    """The same of inputs that take any text, which is the name of a model file all the same."""


def models_of(graph: Graph, catalog: Catalog) -> LoadedModels:
    """Return what the graph loads; for any graph. `catalog` is of a backend that would run it."""
    search = _Search(graph, catalog)
    models, settings, loaders = set[str](), set[str](), list[str]()
    for loader in list(search.loaders()):
        # A constant that a loader's choice comes from is counted there, where its folder is known.
        named = loader.chosen if loader.node_id in search.constants else loader.chosen + loader.entered
        if named:
            loaders.append(loader.node_id)
            models.update([text for _, text in named])
            # As Python writes it, which tells apart what is not the same, and is quicker than JSON.
            settings.add(repr((loader.node["class_type"], sorted(named), _settings(loader.node["inputs"]))))
    if not models:
        return LoadedModels()
    digest = blake2b("\n".join(sorted(settings)).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return LoadedModels(tuple(sorted(models)[:MOST_MODELS]), digest, tuple(loaders))


class _Search:
    """The search through one graph: each node once, from the outputs on."""

    def __init__(self, graph: Graph, catalog: Catalog) -> None:
        self._graph = graph
        self._nodes = catalog.nodes
        self._inputs = catalog.model_files.inputs
        self._known = catalog.model_files.known
        self.constants = set[str]()
        """Nodes that do no more than hold the text for a loader."""

    def loaders(self) -> Iterator[_Loader]:
        """Yield the nodes that may name models. Without a known output node all nodes are looked at."""
        graph, known = self._graph, self._known
        todo = self._outputs() or list(graph)
        seen = set(todo)
        while todo:
            key = todo.pop()
            node = graph[key]
            if not _is_node(node):
                continue
            ours = self._inputs.get(node["class_type"], _NONE)
            chosen: list[tuple[str, str]] = []
            entered: list[tuple[str, str]] = []
            for name, given in node["inputs"].items():
                # Most values are numbers and texts: they are passed over quickly.
                value = unwrap(given) if isinstance(given, dict) else given
                if isinstance(value, list) and (link := link_of(value)) is not None:
                    target = link.node_id
                    if target not in seen and target in graph:
                        seen.add(target)
                        todo.append(target)
                    value = self._constant(target) if name in ours else None
                if name in ours:
                    chosen += [(stem(name), text) for text in _chosen(ours[name], value)]
                elif value in known if isinstance(value, str) else isinstance(value, dict | list):
                    entered += [(stem(name), _bounded(known[file].names(file))) for file in self._files(value)]
            if chosen or entered:
                yield _Loader(key, node, chosen, entered)

    def _outputs(self) -> list[str]:
        nodes = self._nodes
        named = ((key, nodes.get(node["class_type"])) for key, node in self._graph.items() if _is_node(node))
        return [key for key, described in named if described is not None and described.is_output]

    def _constant(self, node_id: str) -> Any:
        """Return the text that a node holds which does nothing else, such as `PrimitiveString`; else None."""
        node: Any = self._graph.get(node_id)
        if not _is_node(node) or len(node["inputs"]) != 1:
            return None
        value = unwrap(next(iter(node["inputs"].values())))
        if isinstance(value, str):
            self.constants.add(node_id)
            return value
        return None

    def _files(self, value: Any) -> Iterator[str]:
        """Yield the known model files in a value, however deep, but in entries that are switched off."""
        todo = [value]
        while todo:
            each = todo.pop()
            if isinstance(each, str):
                if each in self._known:
                    yield each
            elif isinstance(each, dict):
                if not any(each.get(switch) is False for switch in _SWITCHES):
                    todo += each.values()
            elif isinstance(each, list):
                todo += each


def _chosen(model_input: ModelInput, value: Any) -> list[str]:
    """Return the models that a value of such an input names: one, or several of an input that takes a list."""
    values = value if isinstance(value, list) else [value]
    return [_bounded(model_input.names(each)) for each in values if isinstance(each, str) and looks_like_model(each)]


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)


def _settings(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what says how the models of a node lie in memory."""
    found = [(name, str(inputs[name])) for name in inputs if _SETTING.search(name) and _is_plain(inputs[name])]
    return sorted(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _bounded(text: str) -> str:
    """Return the text as PostgreSQL can keep it: one that is too long, or odd, ends with a digest of what it was."""
    if len(text) <= MOST_CHARS and text.isprintable():
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
    plain = "".join(filter(str.isprintable, text[: MOST_CHARS - len(digest) - 1]))
    return f"{plain}#{digest}"
