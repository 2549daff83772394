"""A workflow in the form that sends jobs: its literal inputs as fields, and what is filled into them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from app.domain.envelopes import UI_FORMAT, layers_of
from app.domain.errors import Fault, InvalidGraph, InvalidRequest, MalformedJson
from app.domain.hints import pointer_to
from app.domain.text import is_plain, printable
from app.domain.uploads import id_in
from app.domain.values import unwrap, wrapped_like
from app.media.stored_graphs import UnreadableGraph, stored_graph
from app.services.graph_faults import checked_workflow
from app.web.bodies import MANY_VALUES, MAX_VALUES, decoded
from app.web.checking import check_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.domain.workflow import Graph
    from app.monitor.new_job_form import Form

MOST_SHOWN: Final = 200
"""Inputs of a graph that are shown as fields."""
MOST_OPTIONS: Final = 5_000
"""Choices of all fields of a page together; what has more is typed in."""
_LONG: Final = 60
"""Characters from which a text gets more than one line."""
_EXACT: Final = 2**53
"""From here on numbers are none that browsers can count with."""
_WHOLE: Final = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_FRACTION: Final = re.compile(r"[+-]?(?:\d{1,30}(?:[.,]\d{0,30})?|[.,]\d{1,30})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_FILES: Final = {"image": "image/*", "video": "video/*", "audio": "audio/*", "file": ""}
"""Kind of file that a node takes → what is offered to choose from."""
_NONE_IN_FILE: Final = "There is no workflow in it: it is neither JSON nor a file into which ComfyUI has written one."


@dataclass(slots=True)
class InputField:
    """A literal input of a node."""

    name: str
    """Of the form's field, by its place in the graph: ids of nodes may be any text."""
    node_id: str
    input: str
    value: Any
    kind: str
    """`select`, `number`, `check`, `area` or `text`."""
    accept: str | None
    """None of an input that takes no file."""
    choices: Mapping[str, Any]
    """Text → value."""
    limits: dict[str, Any]
    whole: bool | None
    """Whether it is a whole number; None of other values."""

    @property
    def label(self) -> str:
        """Its name as it can be shown."""
        return printable(self.input)

    @property
    def pointer(self) -> str:
        """Where it stands in the request."""
        return pointer_to("/workflow", self.node_id, "inputs", self.input)

    @property
    def text(self) -> str:
        """The present value as the field has it."""
        return text_of_value(self.value)

    def read(self, text: str) -> Any:
        """Return the value that is filled in; raises `ValueError` with what is wrong with it."""
        if text.split() == self.text.split():
            # Not changed, but for blanks and ends of lines, as browsers have them.
            return self.value
        if self.choices:
            return self.choices.get(text, text)
        if self.kind == "check":
            return text == "true"
        if self.whole is None:
            return text
        if _WHOLE.fullmatch(text.strip()):
            return int(text)
        if self.whole or not _FRACTION.fullmatch(text.strip()):
            raise ValueError(f"This is to be a {'whole ' if self.whole else ''}number.")
        found = float(text.replace(",", "."))
        if not math.isfinite(found):
            raise ValueError("This number is too large.")
        return found


@dataclass(slots=True)
class NodeFields:
    """A node, with those of its inputs that are shown."""

    node_id: str
    node_class: str
    title: str
    inputs: list[InputField]


@dataclass(slots=True)
class GraphFields:
    """A graph as fields."""

    graph: Graph
    nodes: list[NodeFields] = field(default_factory=list)
    left_out: int = 0
    """Literal inputs that are not shown: there are too many, or a form cannot bring them back as they are."""

    @property
    def text(self) -> str:
        """The graph for the hidden field: in ASCII, which every browser sends back as it is."""
        return json.dumps(self.graph, separators=(",", ":"))

    @property
    def inputs(self) -> Iterator[InputField]:
        """All fields."""
        return (each for node in self.nodes for each in node.inputs)

    def put(self, each: InputField, value: Any) -> None:
        """Set an input, in a copy of what is changed."""
        node = self.graph[each.node_id]
        inputs = node["inputs"]
        changed = node | {"inputs": inputs | {each.input: wrapped_like(inputs[each.input], value)}}
        self.graph = self.graph | {each.node_id: changed}
        each.value = value

    def take(self, form: Form) -> None:
        """Set what is filled in; what cannot be read is blamed, and stays as it was."""
        for each in self.inputs:
            form.places[each.pointer] = each.name
            text = form.values.get(each.name)
            if text is None:
                continue
            try:
                value = each.read(text)
            except ValueError as error:
                form.blame(Fault(each.pointer, "no_number", str(error)))
                continue
            if value is not each.value:
                self.put(each, value)


def fields_of(graph: Graph, descriptions: Mapping[str, Mapping[str, Any]]) -> GraphFields:
    """Return the fields of a graph of sound structure; `descriptions` is class → input → what the class says of it."""
    found, options, shown = GraphFields(graph), MOST_OPTIONS, 0
    for node_id, node in graph.items():
        fields = []
        for name, given in node["inputs"].items():
            value = unwrap(given)
            if not isinstance(value, str | int | float):
                continue
            if shown == MOST_SHOWN or (isinstance(value, str) and not is_plain(value)):
                found.left_out += 1
                continue
            told = descriptions.get(node["class_type"], {}).get(name, {})
            each = _field(f"in_{shown}", node_id, name, value, told, options)
            options -= len(each.choices)
            shown += 1
            fields.append(each)
        if fields:
            meta = node.get("_meta")
            title = meta.get("title") if isinstance(meta, dict) else None
            title = title if isinstance(title, str) and title.strip() else node["class_type"]
            found.nodes.append(NodeFields(printable(node_id), printable(node["class_type"]), printable(title), fields))
    return found


def classes_shown(graph: Graph) -> list[str]:
    """Return the classes of the nodes that have fields."""
    found, left = dict[str, None](), MOST_SHOWN
    for node in graph.values():
        literal = sum(isinstance(unwrap(each), str | int | float) for each in node["inputs"].values())
        if literal and left > 0:
            found[node["class_type"]] = None
            left -= literal
    return list(found)


def read_graph(raw: bytes, max_bytes: int) -> Graph:
    """Return the graph that a JSON text is, or that a request in it has.

    Raises
    ------
    InvalidRequest
        It is none, or is not sound; the pointers lead into `/workflow`.
    """
    values = sum(map(raw.count, (b",", b":", b"[", b"{")))
    if values > MAX_VALUES:
        raise _nothing(f"It holds some {values} names and values; at most {MAX_VALUES} are taken.")
    try:
        value = decoded(raw, patient=values > MANY_VALUES)
    except MalformedJson as error:
        detail = str(error).replace("The body", "This")
        raise InvalidRequest(detail, [Fault("/workflow", error.code, detail)]) from error
    for name in layers_of(value):
        value = value[name] if isinstance(value[name], dict) else value
    if faults := check_texts({"workflow": value}, ("workflow",)):
        raise InvalidGraph("The workflow cannot be run.", faults)
    return checked_workflow(value, {}, {}, max_bytes)


def graph_in(file: BinaryIO, max_bytes: int) -> Graph:
    """Return the graph that a file is or carries; blocking; raises as `read_graph`."""
    with file:
        try:
            stored = stored_graph(file)
        except UnreadableGraph as error:
            raise _nothing(f"The workflow in the file cannot be read: {error}.") from error
        if stored is not None and stored.prompt is None:
            raise _nothing(UI_FORMAT)
        if stored is not None:
            return read_graph((stored.prompt or "").encode(), max_bytes)
        file.seek(0)
        # As JSON it may be written over many lines.
        raw = file.read(4 * max_bytes + 1)
    if len(raw) > 4 * max_bytes or raw.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] not in (b"{", b"[", b'"'):
        raise _nothing(_NONE_IN_FILE)
    return read_graph(raw, max_bytes)


def text_of_value(value: Any) -> str:
    """Return a literal value as a field has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _field(name: str, node_id: str, input_: str, value: Any, told: Mapping[str, Any], options: int) -> InputField:
    accept = _FILES.get(told.get("uploads") or "")
    if accept is None and id_in(value) is not None:
        accept = ""
    choices: dict[str, Any] = {}
    listed = told.get("choices") or ()
    is_whole = len(listed) == told.get("choices_count") and not told.get("multiselect") and accept is None
    if is_whole and len(listed) <= options and all(isinstance(each, str | int | float) for each in listed):
        choices = {text_of_value(each): each for each in listed}
    kind, limits, whole = "text", dict[str, Any](), None
    if choices:
        kind = "select"
    elif isinstance(value, bool):
        kind = "check"
    elif isinstance(value, int | float):
        whole = told.get("type") == "INT"
        kind, limits = _number(value, told, whole)
    elif isinstance(value, str) and accept is None and (len(value) > _LONG or len(value.splitlines()) > 1):
        kind = "area"
    return InputField(name, node_id, input_, value, kind, accept, choices, limits, whole)


def _number(value: float, told: Mapping[str, Any], whole: bool) -> tuple[str, dict[str, Any]]:
    given = {name: told[name] for name in ("min", "max") if isinstance(told.get(name), int | float)}
    if any(abs(each) >= _EXACT for each in (value, *given.values())):
        return "text", {"inputmode": "numeric" if whole else "decimal"}
    step = told.get("step") or (1 if whole else 0)
    # Browsers refuse what is off the steps, ComfyUI does not.
    on_step = bool(step) and abs(round(steps := (value - given.get("min", 0)) / step) - steps) < 1e-6
    return "number", given | {"step": step if on_step else "any"}


def _nothing(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, [Fault("/workflow", "no_workflow", detail)])
