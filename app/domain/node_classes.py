"""A node class as a backend describes it: its inputs, the types of its outputs, and what can be told of neither."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.domain.choices import Choices
from app.domain.growing_inputs import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.growing_inputs import Growth, Options, Slot

_ANY: Final = ("*", "COMFY_MATCHTYPE_V3")
"""Types that fit every type. For the second one ComfyUI's page checks that all links of a node have the same type; its
server does not."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node class."""

    name: str
    type: str
    """`COMBO` for both forms of a list of choices."""
    required: bool
    choices: tuple[Any, ...] | None = None
    """The values it takes, where they are a list; an empty one lets no value in."""
    minimum: float | None = None
    maximum: float | None = None
    lazy: bool = False
    """Whether the node asks for it only when it needs it, in the middle of its own run."""
    drawn: bool = False
    """Whether ComfyUI's own page offers to draw another number for it after each run, as for a seed."""
    listed: bool = False
    """Whether the choices stand in place of the type: the old form, which every ComfyUI checks."""
    multiselect: bool = False
    uploads: str = ""
    """The kind of file that is uploaded for it: image, video, audio or file; remote where the choices come from another
    server. Unless it is empty, the choices change while the server runs, and a list read earlier proves nothing."""
    folder: str = ""
    """ComfyUI's folder (input, output or temp) from which the choices are, where it says so: `image_folder`."""
    default: Any = None
    """None when it does not say; any JSON otherwise."""
    step: float | None = None
    odd_bounds: bool = False
    """Whether a bound is no number, so that what a comparison with it does is not known."""
    grows: Growth | Options | Slot | None = None
    """How other inputs come of it."""
    chosen: Choices = field(init=False, repr=False, compare=False)
    """The choices, to be looked up: a graph may choose among thousands of files in each of its nodes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "chosen", Choices(self.choices or ()))

    def accepts_type(self, given: str | tuple[Any, ...]) -> bool:
        """Whether ComfyUI links an output of type `given` here, which may be a list of choices.

        `*` fits everything; a comma separates alternatives.
        """
        if self.type in _ANY or given in _ANY:
            return True
        if self.listed or isinstance(given, tuple):
            return self.listed and given == self.choices
        ours, theirs = ({each.strip() for each in kind.split(",")} for kind in (self.type, given))
        return given == self.type or bool(ours & theirs) or "*" in ours | theirs


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A node class: its inputs by name, the types of its outputs, and whether it leaves something behind."""

    name: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str | tuple[Any, ...], ...] | None
    """None when it does not say; a list of choices may stand for a type."""
    is_output: bool
    is_core: bool = False
    """Whether it is ComfyUI's own. Others may check inputs themselves, have types that are equal to any, and give more
    than they declare, which cannot be seen from outside."""
    expands: bool = False
    """Whether ComfyUI makes other inputs of those that grow: a class of the older form uses the same words in vain."""
    display_name: str = ""
    """As ComfyUI's own page calls it; empty when it does not say, as is the category."""
    category: str = ""
    output_names: tuple[str, ...] = ()
    """In the order of `outputs`; there may be fewer."""
    output_lists: tuple[bool, ...] = ()
    """Whether each output is a list of values of its type; there may be fewer."""
    grows: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grows", any(spec.grows is not None for spec in self.inputs.values()))

    def inputs_for(self, given: Mapping[str, Any]) -> Mapping[str, InputSpec]:
        """Return the inputs that a node of this class has to which these values are given."""
        return expanded(self.inputs, given) if self.grows and self.expands else self.inputs

    def may_grow(self, name: str) -> bool:
        """Whether an input that is not listed may be one all the same: `images.image0`, of `images` that grows."""
        parent = self.inputs.get(name.partition(".")[0])
        return parent is not None and parent.grows is not None
