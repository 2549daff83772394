"""What `POST /prompt` checks, with the errors that ComfyUI 0.3.64 answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.standin.nodes import Input, NodeType

Graph = dict[str, Any]
Reasons = list[dict[str, Any]]

_LONGEST_LIST: Final = 20
"""Longer lists of choices are not repeated in an error."""

_CONVERTERS: Final[Mapping[str, type]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


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
    graph: Graph,
    types: Mapping[str, NodeType],
    targets: list[str] | None = None,
    *,
    strict: bool = False,
    names_missing: bool = False,
) -> Verdict:
    """Check a prompt, coerce the values of its nodes in place and unwrap what is wrapped in `__value__`.

    Later versions of ComfyUI name a cycle as such (`strict`), and a node type that is not there (`names_missing`).

    Raises
    ------
    TypeError, AttributeError
        If the graph or a node has not even the right JSON type, which ComfyUI answers with 500.
    """
    for node_id in graph:
        if (name := graph[node_id].get("class_type")) is None or name not in types:
            return Verdict(_missing_type(node_id, graph[node_id], names_missing=names_missing))
    wanted = [node_id for node_id in graph if types[graph[node_id]["class_type"]].output_node]
    if targets is not None:
        wanted = [node_id for node_id in wanted if node_id in targets]
    if not wanted:
        return Verdict(make_error("prompt_no_outputs", "Prompt has no outputs"))
    if _has_cycle(graph, types, wanted):
        kind = "dependency_cycle" if strict else "prompt_outputs_failed_validation"
        return Verdict(make_error(kind, "Prompt outputs failed validation"))
    return _Validation(graph, types).outputs(wanted)


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

    def __init__(self, graph: Graph, types: Mapping[str, NodeType]) -> None:
        self._graph = graph
        self._types = types
        self._done: dict[str, tuple[bool, Reasons]] = {}

    def outputs(self, wanted: list[str]) -> Verdict:
        """Check the outputs and what they depend on."""
        good: list[str] = []
        details: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in wanted:
            try:
                valid, reasons = self._node(output)
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                valid, reasons = False, [_exception_reason("exception_during_validation", error)]
                self._done[output] = valid, reasons
            if valid:
                good.append(output)
                continue
            details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
            for node_id, (_, faults) in self._done.items():
                if faults and self._depends(output, node_id):
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

    def _depends(self, output: str, node_id: str) -> bool:
        """Tell whether an output needs a node."""
        seen: set[str] = set()
        stack = [output]
        while stack:
            current = stack.pop()
            if current == node_id:
                return True
            if current not in seen and current in self._graph:
                seen.add(current)
                stack += _linked(self._graph[current])
        return False

    def _node(self, node_id: str) -> tuple[bool, Reasons]:
        """Check one node and those above it; return whether all are valid, and its own faults."""
        if node_id in self._done:
            return self._done[node_id]
        node_type = self._types[self._graph[node_id]["class_type"]]
        values = self._graph[node_id]["inputs"]
        valid, reasons = True, Reasons()
        for name, one in {**node_type.required, **node_type.optional}.items():
            if name not in values:
                if name in node_type.required:
                    message = "Required input is missing"
                    reasons.append(_reason("required_input_missing", message, name, input_name=name))
            elif isinstance(values[name], list):
                valid = self._link(name, one, values[name], reasons) and valid
            else:
                self._value(name, one, node_type, values, reasons)
        if node_type.check is not None and not reasons:
            for name, fault in node_type.check(values).items():
                message, details = "Custom validation failed for node", f"{name} - {fault}"
                reasons.append(_reason("custom_validation_failed", message, details, input_name=name))
        self._done[node_id] = valid and not reasons, reasons
        return self._done[node_id]

    def _link(self, name: str, one: Input, link: list[Any], reasons: Reasons) -> bool:
        """Check a link and the node it leads to; return whether that node is valid."""
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            reasons.append(_input_reason("bad_linked_input", message, name, name, one, link))
            return True
        source = self._graph[link[0]]
        received = self._types[source["class_type"]].outputs[link[1]]
        kind = one.kind if isinstance(one.kind, str) else "COMBO"
        if received != kind and "*" not in (received, kind):
            reasons.append(
                _reason(
                    "return_type_mismatch", "Return type mismatch between linked nodes",
                    f"{name}, received_type({received}) mismatch input_type({kind})",
                    input_name=name, input_config=one.described(), received_type=received, linked_node=link,
                )
            )  # fmt: skip
            return True
        try:
            return self._node(link[0])[0]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            reason = _exception_reason("exception_during_inner_validation", error)
            reason["extra_info"] |= {
                "input_name": name,
                "input_config": one.described(),
                "exception_message": str(error),
                "linked_node": link,
            }
            self._done[link[0]] = False, [reason]
            return False

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
        if name in node_type.checked:
            return
        config = one.config or {}
        if "min" in config and value < config["min"]:
            message = f"Value {value} smaller than min of {config['min']}"
            reasons.append(_input_reason("value_smaller_than_min", message, name, name, one, value))
        elif "max" in config and value > config["max"]:
            message = f"Value {value} bigger than max of {config['max']}"
            reasons.append(_input_reason("value_bigger_than_max", message, name, name, one, value))
        elif not isinstance(one.kind, str) and value not in (choices := one.kind()):
            long = len(choices) > _LONGEST_LIST
            listed = f"(list of length {len(choices)})" if long else str(choices)
            details = f"{name}: '{value}' not in {listed}"
            reason = _input_reason("value_not_in_list", "Value not in list", details, name, one, value)
            if long:
                reason["extra_info"]["input_config"] = None
            reasons.append(reason)


def _reason(kind: str, message: str, details: str, **extra_info: Any) -> dict[str, Any]:
    """Return one entry of a node's `errors`."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _input_reason(kind: str, message: str, details: str, name: str, one: Input, value: Any) -> dict[str, Any]:
    """Return an entry that describes the input and shows what was received."""
    return _reason(kind, message, details, input_name=name, input_config=one.described(), received_value=value)


def _exception_reason(kind: str, error: Exception) -> dict[str, Any]:
    """Return the entry of a node at which the check itself failed."""
    inner = "inner " if "inner" in kind else ""
    traceback = ['  File "/comfyui/execution.py", line 1010, in validate_prompt\n']
    traceback += ['  File "/comfyui/execution.py", line 788, in validate_inputs\n']
    exception_type = type(error).__name__
    message = f"Exception when validating {inner}node"
    return _reason(kind, message, str(error), exception_type=exception_type, traceback=traceback)


def _linked(node: Mapping[str, Any]) -> list[str]:
    """Return the ids that a node's inputs link to."""
    inputs = node.get("inputs")
    values = inputs.values() if isinstance(inputs, dict) else ()
    return [value[0] for value in values if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)]


def _has_cycle(graph: Graph, types: Mapping[str, NodeType], wanted: list[str]) -> bool:
    """Tell whether an output depends on a node that depends on itself, by inputs that the nodes' types have."""

    def linked(node_id: str) -> list[str]:
        inputs, node_type = graph[node_id].get("inputs"), types[graph[node_id]["class_type"]]
        names = {**node_type.required, **node_type.optional}
        known = {name: value for name, value in inputs.items() if name in names} if isinstance(inputs, dict) else {}
        return _linked({"inputs": known})

    finished: set[str] = set()
    for start in wanted:
        path: list[tuple[str, list[str]]] = [(start, linked(start))]
        on_path = {start}
        while path:
            node_id, above = path[-1]
            if not above:
                path.pop()
                on_path.discard(node_id)
                finished.add(node_id)
            elif (following := above.pop()) in on_path:
                return True
            elif following not in finished and following in graph:
                path.append((following, linked(following)))
                on_path.add(following)
    return False
