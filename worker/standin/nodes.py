"""What a node type is: its inputs as `/object_info` describes them, and the coroutine that runs it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.standin.tracebacks import Place

if TYPE_CHECKING:
    from worker.standin.node_run import NodeRun

Choices = Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class Input:
    """One input: a type's name or the choices there are, and its limits, default and help."""

    kind: str | Choices
    config: Mapping[str, Any] | None = None

    def described(self) -> list[Any]:
        """Return the input as `/object_info` and error bodies show it."""
        kind = self.kind if isinstance(self.kind, str) else self.kind()
        return [kind] if self.config is None else [kind, dict(self.config)]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Takes the place of a value: whatever needs it does not run. With a message the first such node reports it."""

    message: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave: a value for each output, and what an output node shows."""

    outputs: tuple[Any, ...] = ()
    ui: dict[str, Any] | None = None


class NodeError(Exception):
    """A node fails as it was told to, with the exception type that ComfyUI would name."""

    def __init__(self, message: str, exception_type: str = "RuntimeError") -> None:
        super().__init__(message)
        self.exception_type = exception_type


class NodeOutOfMemoryError(NodeError):
    """A node needs more memory than there is; the server unloads its models and goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "torch.OutOfMemoryError")


class ThreadDiedError(Exception):
    """The execution thread ends: nothing runs any more, though the server answers."""

    def __init__(self, reason: str, place: Place | None = None, error: str = "") -> None:
        super().__init__(reason)
        self.place = place
        """Where the error came up; None if Python says nothing of it, as of SystemExit."""
        self.error = error
        """The last line of what Python writes: the error's type and text."""


Run = Callable[["NodeRun", Mapping[str, Any]], Awaitable[Result]]
"""What a node type does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """One node type."""

    name: str
    run: Run
    required: Mapping[str, Input] = field(default_factory=dict)
    optional: Mapping[str, Input] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    output_node: bool = False
    display_name: str = ""
    description: str = ""
    category: str = "image"
    python_module: str = "nodes"
    function: str = "run"
    """What its function is called, which complaints about its inputs name."""
    defaulted: frozenset[str] = frozenset()
    """Required inputs without which its function can be called."""
    takes_any: bool = False
    """Whether its function takes inputs of any name."""
    modern: bool = False
    """Whether it is described in the newer form, which has more keys and puts the choices elsewhere."""
    fingerprint: Callable[[Mapping[str, Any]], object] | None = None
    """What else than its inputs decides whether the node must run again."""
    fingerprint_seconds: Callable[[Mapping[str, Any]], float] | None = None
    """How long it takes to say so, before any node runs and without a frame."""
    check: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    """Returns input → fault, in place of the usual check of those inputs."""
    checked: frozenset[str] = frozenset()
    """The inputs that `check` looks at."""

    def described(self) -> dict[str, Any]:
        """Return the node type as `/object_info` shows it."""
        groups = {"required": self.required, "optional": self.optional}
        inputs: dict[str, Any] = {
            group: {name: one.described() for name, one in members.items()}
            for group, members in groups.items()
            if members or group == "required"
        }
        if self.hidden:
            inputs["hidden"] = {name: [kind] if self.modern else kind for name, kind in self.hidden.items()}
        modern = {"output_tooltips": [None] * len(self.outputs), "deprecated": False, "experimental": False}
        return {
            "input": inputs,
            "input_order": {group: list(members) for group, members in inputs.items()},
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.output_names or self.outputs),
            "name": self.name,
            "display_name": self.display_name or (None if self.modern else self.name),
            "description": self.description,
            "python_module": self.python_module,
            "category": self.category,
            "output_node": self.output_node,
            **(modern | {"api_node": False} if self.modern else {}),
        }


def integer(default: int, least: int, most: int, **more: Any) -> Input:
    """Return a whole-number input."""
    return Input("INT", {"default": default, "min": least, "max": most, **more})


def decimal(default: float, least: float, most: float, **more: Any) -> Input:
    """Return a number input."""
    return Input("FLOAT", {"default": default, "min": least, "max": most, **more})


def modern_choice(choices: list[str], **config: Any) -> Input:
    """Return a choice in the newer form: its values stand in the config, and ComfyUI 0.3.64 does not check them."""
    return Input("COMBO", {**config, "multiselect": False, "options": choices})


def choice(choices: list[str] | Choices, **config: Any) -> Input:
    """Return an input that takes one of some values."""
    return Input(choices if callable(choices) else lambda: list(choices), config or None)
