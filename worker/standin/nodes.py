"""What a node type is: its inputs as `/object_info` describes them, and the coroutine that runs it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from worker.standin.tracebacks import Place
from worker.standin.versions import GROWING_INPUTS, Version

if TYPE_CHECKING:
    from worker.standin.node_run import NodeRun

Choices = Callable[[], list[Any]]


@dataclass(frozen=True, slots=True)
class Input:
    """One input: a type's name or the choices there are, and its limits, default and help."""

    kind: str | Choices
    config: Mapping[str, Any] | None = None

    def described(self) -> list[Any]:
        """Return the input as `/object_info` shows it."""
        return [self.shown_kind] if self.config is None else [self.shown_kind, _plain(self.config)]

    def told(self) -> list[Any]:
        """Return the input as error bodies show it, where there always is a config."""
        return [self.shown_kind, _plain(self.config or {})]

    @property
    def shown_kind(self) -> str | list[Any]:
        """The type's name, or the choices."""
        return self.kind if isinstance(self.kind, str) else self.kind()


def _plain(value: Any) -> Any:
    """Return a config as JSON has it: one of a growing or choosing input holds other inputs."""
    match value:
        case Input():
            return value.described()
        case _ if callable(value):
            return value()
        case Mapping():
            return {key: _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            return value


@dataclass(frozen=True, slots=True)
class Blocked:
    """Takes the place of a value: whatever needs it does not run. With a message the first such node reports it."""

    message: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave: a value for each output, and what an output node shows."""

    outputs: tuple[Any, ...] = ()
    ui: dict[str, Any] | None = None
    raw: bool = False
    """Whether the history shows `ui` unchanged. No measured ComfyUI does so: all concatenate the lists."""


@dataclass(frozen=True, slots=True)
class Several:
    """Values of an output that is a list: whatever reads it runs once for each."""

    values: tuple[Any, ...]


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
    outputs: tuple[Any, ...] = ()
    """Types; a list of choices is one too."""
    output_lists: tuple[bool, ...] = ()
    """Which outputs are lists, whose members go on one by one; none, if it is empty."""
    output_names: tuple[str, ...] = ()
    output_node: bool = False
    intermediate: bool = False
    """Whether it shows something though it is no output, as some do from 0.33 on."""
    since: Version = ()
    """The first version that has it."""
    gone: Version | None = None
    """The first version that has it no more, or in another form."""
    display_name: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    """Words by which it is found, which 0.33 tells."""
    essentials: str | None = None
    """The group of the most needed nodes in which 0.33 shows it."""
    experimental: bool = False
    category: str = "image"
    python_module: str = "nodes"
    function: str = "run"
    """What its function is called, which complaints about its inputs name."""
    defaulted: frozenset[str] = frozenset()
    """Required inputs without which its function can be called."""
    takes_any: bool = False
    """Whether its function takes inputs of any name."""
    modern: bool = False
    """Whether it is described in the newer form, which has more keys and puts the choices elsewhere; only there do
    inputs grow and choose."""
    lazy: Callable[[Mapping[str, Any]], list[str]] | None = None
    """Returns which of its inputs marked `lazy` it needs now, from what it has; one that it has not is None."""
    fingerprint: Callable[[Mapping[str, Any]], object] | None = None
    """What else than its inputs decides whether the node must run again."""
    fingerprint_seconds: Callable[[Mapping[str, Any]], float] | None = None
    """Returns the seconds that computing the fingerprint takes, before any node runs and without a frame."""
    check: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    """Returns input → fault, in place of the usual check of those inputs."""
    checked: frozenset[str] = frozenset()
    """The inputs that `check` looks at."""
    checks_all: bool = False
    """Whether it looks at every input, so that none of them is checked as usual."""
    checks_types: bool = False
    """Whether it looks at the types of what is linked, so that these are not checked as usual."""

    def described(self, version: Version) -> dict[str, Any]:
        """Return the node type as `/object_info` shows it."""
        groups = {"required": self.required, "optional": self.optional}
        inputs: dict[str, Any] = {
            group: {name: one.told() if self.modern else one.described() for name, one in members.items()}
            for group, members in groups.items()
            if members or group == "required"
        }
        if self.hidden:
            inputs["hidden"] = {name: [kind] if self.modern else kind for name, kind in self.hidden.items()}
        newer = version >= GROWING_INPUTS
        return {
            "input": inputs,
            "input_order": {group: list(members) for group, members in inputs.items()},
            **({"is_input_list": False} if newer else {}),
            "output": list(self.outputs),
            "output_is_list": list(self.output_lists or [False] * len(self.outputs)),
            "output_name": list(self.output_names or self.outputs),
            "name": self.name,
            "display_name": self.display_name or (None if self.modern else self.name),
            "description": self.description,
            "python_module": self.python_module,
            "category": self.category,
            "output_node": self.output_node,
            **(self._described_more() if self.modern else {}),
            **({"experimental": True} if self.experimental else {}),
            **(self._newly_described() if newer else {}),
        }

    def _described_more(self) -> dict[str, Any]:
        """Return the keys that only the newer form has."""
        tooltips = [None] * len(self.outputs)
        return {"output_tooltips": tooltips, "deprecated": False, "experimental": False, "api_node": False}

    def _newly_described(self) -> dict[str, Any]:
        """Return what 0.33 says more."""
        shown = {"has_intermediate_output": self.intermediate, "search_aliases": list(self.aliases)}
        if not self.modern:
            return shown | ({"essentials_category": self.essentials} if self.essentials else {})
        aliases = {"search_aliases": list(self.aliases) or None, "essentials_category": self.essentials}
        return shown | aliases | {"output_matchtypes": None, "dev_only": False, "price_badge": None}


def in_both_ages(older: NodeType, **newer: Any) -> list[NodeType]:
    """Return a node type as it was before 0.33, and as it is since, with these fields changed."""
    return [replace(older, gone=GROWING_INPUTS), replace(older, since=GROWING_INPUTS, **newer)]


def integer(default: int, least: int, most: int, **more: Any) -> Input:
    """Return a whole-number input."""
    return Input("INT", {"default": default, "min": least, "max": most, **more})


def decimal(default: float, least: float, most: float, **more: Any) -> Input:
    """Return a number input."""
    return Input("FLOAT", {"default": default, "min": least, "max": most, **more})


def modern_choice(choices: list[str] | Choices, **config: Any) -> Input:
    """Return a choice in the newer form: its values stand in the config, and ComfyUI 0.3.64 does not check them."""
    return Input("COMBO", {**config, "multiselect": False, "options": choices})


def choice(choices: list[Any] | Choices, **config: Any) -> Input:
    """Return an input that takes one of some values."""
    return Input(choices if callable(choices) else lambda: list(choices), config or None)
