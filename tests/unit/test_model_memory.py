"""What a backend has in memory, told from its own runs, and how fast it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from worker.comfyui.model_memory import ModelMemory

if TYPE_CHECKING:
    from app.domain.scheduling.fleet import BackendState

A, B = frozenset({"checkpoints/a"}), frozenset({"checkpoints/b", "loras/c"})


class Clock:
    """The monotonic clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("worker.comfyui.model_memory.time.monotonic", clock)
    return clock


@pytest.fixture
def memory() -> ModelMemory:
    return ModelMemory()


def state(memory: ModelMemory, **more: Any) -> BackendState:
    return memory.state("gpu", **({"foreign": 0, "live": True, "offers": None} | more))


def test_nothing_is_known_of_a_new_backend(memory: ModelMemory) -> None:
    found = state(memory)
    assert (found.warm, found.free_at, found.busy, found.speed, found.idle_since) == (frozenset(), 1000, False, 1, None)


def test_what_it_was_given_counts_as_loaded_before_it_runs(memory: ModelMemory) -> None:
    memory.took(1, A, cost_s=3.0, load_s=2.0)
    assert (state(memory).warm, state(memory).busy, state(memory).free_at) == (A, True, 1005)
    memory.dropped(1)
    assert (state(memory).warm, state(memory).busy) == (frozenset(), False)


def test_what_has_run_stays_loaded_until_something_else_is(memory: ModelMemory) -> None:
    memory.took(1, A, 3.0, 2.0)
    assert memory.ended(1, A, 2.0) == A
    assert (state(memory).warm, state(memory).busy) == (A, False)
    memory.took(2, B, 3.0, 2.0)
    assert state(memory).warm == B
    assert memory.models == sorted(B)


def test_it_learns_that_there_is_room_for_more(memory: ModelMemory) -> None:
    for models, load_s in ((A, 2.0), (B, 2.0), (A, 0.0)):
        memory.ended(1, models, load_s)
    assert state(memory).warm == A | B
    # And that there is less.
    for models, load_s in ((B, 0.0), (A, 2.0)):
        memory.ended(1, models, load_s)
    assert state(memory).warm == A


def test_a_lora_that_is_applied_anew_is_no_sign_of_a_load(memory: ModelMemory) -> None:
    for models, load_s in ((A, 2.0), (B, 2.0), (A, 0.0), (A, 0.1), (A | {"loras/d"}, 0.1)):
        memory.ended(1, models, load_s, usual_s=2.0)
    assert state(memory).warm == A | B | {"loras/d"}


def test_it_is_free_when_all_that_it_was_given_has_run(memory: ModelMemory, clock: Clock) -> None:
    memory.took(1, A, 3.0, 2.0)
    clock.now += 1
    memory.took(2, A, 4.0, 0.0)
    assert state(memory).free_at == 1000 + 5 + 4
    # The first one takes longer than expected.
    clock.now += 9
    assert state(memory).free_at == 1010 + 4
    memory.ended(1, A, 2.0)
    clock.now += 1
    assert state(memory).free_at == 1010 + 4
    memory.ended(2, A, 0.0)
    assert state(memory).free_at == clock.now


def test_prompts_that_are_not_ours_take_time_as_well(memory: ModelMemory) -> None:
    assert (state(memory, foreign=2).free_at, state(memory, foreign=2).busy) == (1020, False)


def test_what_was_not_seen_teaches_nothing_but_is_taken_to_be_loaded(memory: ModelMemory) -> None:
    memory.ended(1, A, 2.0)
    memory.ended(2, B, None)
    assert state(memory).warm == B


def test_a_graph_without_models_changes_nothing(memory: ModelMemory) -> None:
    memory.ended(1, A, 2.0)
    memory.took(2, frozenset(), 1.0, 0.0)
    memory.ended(2, frozenset(), 0.0)
    assert state(memory).warm == A


def test_after_a_restart_nothing_is_loaded(memory: ModelMemory) -> None:
    memory.ended(1, A, 2.0)
    memory.forget()
    assert state(memory).warm == frozenset()


def test_models_that_ran_out_of_memory_are_avoided_for_a_while(memory: ModelMemory, clock: Clock) -> None:
    memory.ended(1, B, 2.0)
    memory.ran_out(A)
    assert (state(memory).avoids, state(memory).warm) == (frozenset({A}), frozenset())
    clock.now += 1801
    assert state(memory).avoids == frozenset()


def test_how_fast_it_is_shows_when_it_is_not_as_fast_as_others(memory: ModelMemory) -> None:
    memory.ran(10.0, 10.4)
    assert memory.speed == 1
    for _ in range(20):
        memory.ran(10.0, 5.0)
    assert memory.speed == pytest.approx(2.0, rel=0.01)
    memory.took(1, A, 10.0, 2.0)
    assert state(memory).free_at == pytest.approx(1007, abs=0.1)


def test_a_job_that_is_taken_ends_its_idleness(memory: ModelMemory) -> None:
    memory.idle_since = 990.0
    assert state(memory).idle_since == 990
    memory.took(1, A, 1.0, 0.0)
    assert state(memory).idle_since is None
