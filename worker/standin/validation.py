"""The checks of `POST /prompt`, with the errors that each version of ComfyUI answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.standin.caching import is_link
from worker.standin.growing_inputs import MATCHES, PresentInputs, present_inputs
from worker.standin.nodes import Input, NodeType
from worker.standin.versions import GROWING_INPUTS, LINKS_NOTED, Version

Graph = dict[str, Any]
Reasons = list[dict[str, Any]]

_LONGEST_LIST: Final = 20
"""Longer lists of choices are not repeated in an error."""

_CONVERTERS: Final[Mapping[str, type]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_CHOICE: Final = "COMBO"
_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a prompt is accepted, the error if not, the outputs to run, and what is wrong with which node."""

    error: dict[str, Any] | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)


def make_error(kind: str, message: str, details: str = "") -> dict[str, Any]:
    """Return the `error` of an answer."""
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def validate_prompt(
    graph: Graph, types: Mapping[str, NodeType], version: Version, targets: list[str] | None = None
) -> Verdict:
    """Check a prompt, coerce the values of its nodes in place and unwrap what is wrapped in `__value__`.

    Raises
    ------
    TypeError, AttributeError
        If the graph or a node has not even the right JSON type, which ComfyUI answers with 500.
    """
    for node_id in graph:
        if (name := graph[node_id].get("class_type")) is None or name not in types:
            return Verdict(_missing_type(node_id, graph[node_id], names_missing=version >= LINKS_NOTED))
    wanted = [node_id for node_id in graph if types[graph[node_id]["class_type"]].output_node]
    if targets is not None:
        wanted = [node_id for node_id in wanted if node_id in targets]
    if not wanted:
        return Verdict(make_error("prompt_no_outputs", "Prompt has no outputs"))
    return _Validation(graph, types, version).outputs(wanted)


def _missing_type(node_id: str, node: Mapping[str, Any], *, names_missing: bool) -> dict[str, Any]:
    """Return the error of a node without a type, or of a type that is not there."""
    name, details = node.get("class_type"), f"Node ID '#{node_id}'"
    if not names_missing:
        message = f"Cannot execute because node {name} does not exist."
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
        return make_error("invalid_prompt", message, details)
    title = node.get("_meta", {}).get("title", name)
    message = f"Node '{title}' not found. The custom node may not be installed."
    if "class_type" not in node:
        shown = title or f"ID #{node_id}"
        message = f"Node '{shown}' has no class_type. The workflow may be corrupted or a custom node is missing."
    extra = {"node_id": node_id, "class_type": name, "node_title": title}
    return make_error("missing_node_type", message, details) | {"extra_info": extra}


class _Validation:
    """The check of one prompt; each node is looked at once."""

    def __init__(self, graph: Graph, types: Mapping[str, NodeType], version: Version) -> None:
        self._graph = graph
        self._types = types
        self._newer = version >= GROWING_INPUTS
        self._done: dict[str, tuple[bool, Reasons]] = {}
        self._path: dict[str, None] = {}
        """The nodes that are being looked at, each because the one before reads it."""

    def outputs(self, wanted: list[str]) -> Verdict:
        """Check the outputs and what they depend on."""
        good: list[str] = []
        details: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in wanted:
            try:
                valid, reasons = self._node(output)
            except _OldCycleError:
                valid, reasons = False, []
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                valid, reasons = False, [_exception_reason("exception_during_validation", error)]
                self._done[output] = valid, reasons
            self._path.clear()
            if valid:
                good.append(output)
                continue
            details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
            for node_id, (_, faults) in self._done.items():
                if faults:
                    entry = {"errors": faults, "dependent_outputs": [], "class_type": self._class_type(node_id)}
                    node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)
        if good:
            return Verdict(None, good, node_errors)
        message = "Prompt outputs failed validation"
        error_body = make_error("prompt_outputs_failed_validation", message, "\n".join(details))
        return Verdict(error_body, [], node_errors)

    def _class_type(self, node_id: str) -> str:
        """Return a node's type."""
        return str(self._graph[node_id]["class_type"])

    def _node(self, node_id: str) -> tuple[bool, Reasons]:
        """Check one node and those above it; return whether all are valid, and its own faults."""
        if node_id in self._done:
            return self._done[node_id]
        if node_id in self._path:
            return self._cycle(node_id)
        node_type = self._types[self._graph[node_id]["class_type"]]
        values = self._graph[node_id]["inputs"]
        present = present_inputs(node_type, values)
        valid, reasons = True, Reasons()
        self._path[node_id] = None
        for name, one in present.all.items():
            if name not in values:
                if name in present.required:
                    reasons.append(_missing_input(name, present))
            elif isinstance(values[name], list):
                valid = self._link(name, one, node_type, values[name], reasons) and valid
            else:
                self._value(name, one, node_type, values, reasons)
        self._path.pop(node_id, None)
        reasons += _custom_reasons(node_type, present, values)
        before = self._done.get(node_id, (True, Reasons()))
        self._done[node_id] = before[0] and valid and not reasons, before[1] + reasons
        return self._done[node_id]

    def _cycle(self, node_id: str) -> tuple[bool, Reasons]:
        """Record an error for each node of the cycle that returns to this node; return this node's entry.

        Raises
        ------
        _OldCycleError
            In versions that recurse until Python stops them, and report no node.
        """
        if not self._newer:
            raise _OldCycleError
        path = list(self._path)
        nodes = path[path.index(node_id) :]
        way = " -> ".join(f"{one} ({self._class_type(one)})" for one in [*nodes, node_id])
        for one in nodes:
            reason = _reason("dependency_cycle", "Dependency cycle detected", way, node_id=one, cycle_nodes=nodes)
            self._done[one] = False, [reason]
        return self._done[node_id]

    def _link(self, name: str, one: Input, node_type: NodeType, link: list[Any], reasons: Reasons) -> bool:
        """Check a link and the node it leads to; return whether that node is valid."""
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            reasons.append(_input_reason("bad_linked_input", message, name, name, one, link))
            return True
        received = self._types[self._graph[link[0]]["class_type"]].outputs[link[1]]
        if not node_type.checks_types and not self._fits(received, one.shown_kind):
            reasons.append(
                _reason(
                    "return_type_mismatch", "Return type mismatch between linked nodes",
                    f"{name}, received_type({received}) mismatch input_type({one.shown_kind})",
                    input_name=name, input_config=one.told(), received_type=received, linked_node=link,
                )
            )  # fmt: skip
            return True
        try:
            return self._node(link[0])[0]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = _exception_reason("exception_during_inner_validation", error)
            reason["extra_info"] |= {
                "input_name": name,
                "input_config": one.told(),
                "exception_message": str(error),
                "linked_node": link,
            }
            self._path.pop(link[0], None)
            self._done[link[0]] = False, [reason]
            return False

    def _fits(self, received: Any, wanted: Any) -> bool:
        """Tell whether an output may go into an input: types may be alternatives, with commas between them."""
        if received == wanted or _ANY in (received, wanted):
            return True
        if self._newer and (MATCHES in (received, wanted) or (isinstance(received, list) and wanted == _CHOICE)):
            return True
        if not isinstance(received, str) or not isinstance(wanted, str):
            return False
        given, taken = ({part.strip() for part in one.split(",")} for one in (received, wanted))
        return bool(given & taken) or (self._newer and _ANY in given | taken)

    def _value(self, name: str, one: Input, node_type: NodeType, values: dict[str, Any], reasons: Reasons) -> None:
        """Coerce a value and check it against limits and choices."""
        value = values[name]
        if isinstance(value, dict) and "__value__" in value:
            value = values[name] = value["__value__"]
        if isinstance(one.kind, str) and one.kind in _CONVERTERS:
            try:
                value = values[name] = _CONVERTERS[one.kind](value)
            except (ValueError, TypeError, OverflowError) as error:
                message = f"Failed to convert an input value to a {one.kind} value"
                reason = _input_reason("invalid_input_type", message, f"{name}, {value}, {error}", name, one, value)
                reason["extra_info"]["exception_message"] = str(error)
                reasons.append(reason)
                return
        if name in node_type.checked or node_type.checks_all:
            return
        config = one.config or {}
        if "min" in config and value < config["min"]:
            message = f"Value {value} smaller than min of {config['min']}"
            reasons.append(_input_reason("value_smaller_than_min", message, name, name, one, value))
        elif "max" in config and value > config["max"]:
            message = f"Value {value} bigger than max of {config['max']}"
            reasons.append(_input_reason("value_bigger_than_max", message, name, name, one, value))
        else:
            self._choice(name, one, value, reasons)

    def _choice(self, name: str, one: Input, value: Any, reasons: Reasons) -> None:
        """Check a value against the choices, if there are any; several may be chosen where the newer form says so."""
        if isinstance(one.kind, str):
            if one.kind != _CHOICE or not self._newer:
                return
            options = (one.config or {}).get("options", [])
            choices = options() if callable(options) else list(options)
        else:
            choices = one.kind()
        many = self._newer and isinstance(value, list) and bool((one.config or {}).get("multiselect"))
        wrong = [member for member in (value if many else [value]) if member not in choices]
        if not wrong:
            return
        long = len(choices) > _LONGEST_LIST
        listed = f"(list of length {len(choices)})" if long else str(choices)
        shown = ", ".join(map(repr, wrong)) if self._newer else f"'{value}'"
        details = f"{name}: {shown} not in {listed}"
        reason = _input_reason("value_not_in_list", "Value not in list", details, name, one, value)
        if long:
            reason["extra_info"]["input_config"] = None
        reasons.append(reason)


class _OldCycleError(Exception):
    """A node depends on itself, and the version does not name it."""


def _custom_reasons(node_type: NodeType, present: PresentInputs, values: Mapping[str, Any]) -> Reasons:
    """Return what a node that checks its own inputs finds: of what is linked it sees nothing yet."""
    if node_type.check is None:
        return []
    declared = {name: value for name, value in values.items() if name in present.all or is_link(value)}
    seen = {name: None if is_link(value) else value for name, value in declared.items()}
    message = "Custom validation failed for node"
    faults = node_type.check(seen)
    return [
        _reason("custom_validation_failed", message, f"{name} - {fault}" if fault else name, input_name=name)
        for name, fault in faults.items()
    ]


def _missing_input(name: str, present: PresentInputs) -> dict[str, Any]:
    """Return the reason of an input that is not there; of one with dots its last part is told."""
    shown = name.rpartition(".")[2] if present.paths else name
    return _reason("required_input_missing", "Required input is missing", shown, input_name=name)


def _reason(kind: str, message: str, details: str, **extra_info: Any) -> dict[str, Any]:
    """Return one entry of a node's `errors`."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _input_reason(kind: str, message: str, details: str, name: str, one: Input, value: Any) -> dict[str, Any]:
    """Return an entry that describes the input and shows what was received."""
    return _reason(kind, message, details, input_name=name, input_config=one.told(), received_value=value)


def _exception_reason(kind: str, error: Exception) -> dict[str, Any]:
    """Return the entry of a node at which the check itself failed."""
    inner = "inner " if "inner" in kind else ""
    traceback = ['  File "/comfyui/execution.py", line 1010, in validate_prompt\n']
    traceback += ['  File "/comfyui/execution.py", line 788, in validate_inputs\n']
    exception_type = type(error).__name__
    message = f"Exception when validating {inner}node"
    return _reason(kind, message, str(error), exception_type=exception_type, traceback=traceback)
