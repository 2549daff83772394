"""The call of a node's function: its inputs put together, once for each member of a list, its answers joined."""

from collections.abc import Mapping
from typing import Any

from worker.standin.caching import CachedResult, is_link, output_at
from worker.standin.failures import complain_of_inputs
from worker.standin.growing_inputs import PresentInputs, put_together
from worker.standin.node_run import NodeRun
from worker.standin.nodes import NodeType, Result, Several


def gather_inputs(
    given: Mapping[str, Any], present: PresentInputs, results: Mapping[str, CachedResult], inputs: dict[str, Any]
) -> set[str]:
    """Put the values for a node's inputs into `inputs`: those that its type has, and whatever comes by a link.

    Returns the links that have given nothing yet, of which the value is None.

    Raises
    ------
    TypeError
        If the output that a link asks for is no whole number; `inputs` then holds what was found before.
    """
    known, missing = present.all, set()
    for name, value in given.items():
        if is_link(value):
            source, slot = value
            result = results.get(source)
            if result is not None and slot < len(result.outputs):
                inputs[name] = output_at(result.outputs, slot)
            else:
                inputs[name] = None
                missing.add(name)
        elif name in known:
            inputs[name] = value
    return missing


async def call_node(node_type: NodeType, run: NodeRun, inputs: Mapping[str, Any], present: PresentInputs) -> Result:
    """Call the node's function, once for each member of the longest list among its inputs."""
    lists = [len(value.values) for value in inputs.values() if isinstance(value, Several)]
    most = max(lists, default=1)
    results = []
    for index in range(most):
        values = put_together({name: _member(value, index) for name, value in inputs.items()}, present)
        complain_of_inputs(node_type, values)
        results.append(await node_type.run(run, values))
    return _joined(node_type, results)


def _member(value: Any, index: int) -> Any:
    """Return what this call gets of a list: its last member, when it is shorter than others."""
    return value.values[min(index, len(value.values) - 1)] if isinstance(value, Several) else value


def _joined(node_type: NodeType, results: list[Result]) -> Result:
    """Return one result of several calls, and every list among the outputs as one."""
    outputs = results[0].outputs if results else ()
    joined = []
    for slot in range(len(outputs)):
        values = [result.outputs[slot] for result in results]
        if slot < len(node_type.output_lists) and node_type.output_lists[slot]:
            joined.append(Several(tuple(member for value in values for member in value)))
        else:
            joined.append(values[0] if len(values) == 1 else Several(tuple(values)))
    return Result(tuple(joined), _joined_ui(results))


def _joined_ui(results: list[Result]) -> dict[str, Any] | None:
    """Return the `ui` of all calls, with the lists under each key concatenated. A text is split into letters by this.

    Raises
    ------
    TypeError
        If a value is not iterable, such as a number: the node fails, as in ComfyUI.
    """
    shown = [result.ui for result in results if result.ui is not None]
    if not shown or any(result.raw for result in results):
        return shown[0] if shown else None
    return {key: [member for one in shown for member in one[key]] for key in shown[0]}
