"""One table says what follows a failure; the manual prints it, and the code decides by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import worker.comfyui.client  # noqa: F401  # it has errors of its own
from app.domain.errors import AttemptFailed, ErrorClass, Poisonous
from app.domain.failure_policy import RULES, Against, Verdict, Where, after_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "app" / "manual" / "failures.md"
ONCE, EACH = "once", "as long as there are attempts"


def verdict(error_class: ErrorClass, **facts: bool | int) -> Verdict:
    usual = {"attempts_left": 3, "failed_alike": 0, "offered_elsewhere": False}
    return after_failure(error_class, **usual | facts, delay_s=2.0)  # type: ignore[arg-type]


def kinds(kind: type[AttemptFailed] = AttemptFailed) -> Iterator[type[AttemptFailed]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


def codes_of(error_class: ErrorClass) -> list[str]:
    codes = dict.fromkeys(each.code for each in kinds() if each.error_class is error_class and each is not Poisonous)
    return [f"`{code}`" for code in codes]


def row(error_class: ErrorClass) -> str:
    rule = RULES[error_class]
    often = "–" if rule.where is Where.NOWHERE else {None: EACH, 1: ONCE}[rule.times]
    if rule.against is Against.NOTHING:
        often = "once on each backend"
    against = "–" if rule.where is Where.NOWHERE else rule.against
    return f"| {', '.join(codes_of(error_class))} | {rule.where} | {often} | {against} | {rule.why} |"


def test_the_manual_prints_the_table() -> None:
    rows = "\n".join(row(error_class) for error_class in ErrorClass)
    table = PAGE.read_text().partition("| `error_code` | another attempt |")[2].partition("\n\n")[0]
    assert table.split("\n", 2)[2] == rows, rows


def test_every_class_has_a_rule_and_every_failure_a_class_of_its_own_code() -> None:
    assert list(RULES) == list(ErrorClass)
    # For the user a file that is away now and one that stays away are one thing; the message tells which.
    shared = {"invalid_workflow", "attempt_failed", "input_unavailable"}
    for kind in kinds():
        alike = {each.error_class for each in kinds() if each.code == kind.code}
        assert kind.code in shared or len(alike) == 1, kind.code


NO = Verdict(retry=False)
LATER = Verdict(retry=True, delay_s=2.0)
AVOIDING = Verdict(retry=True, delay_s=2.0, elsewhere=True)
FREE = Verdict(retry=True, elsewhere=True, counted=False)


@pytest.mark.parametrize(
    ("error_class", "alone", "beside"),
    [
        (ErrorClass.INVALID, NO, FREE),
        (ErrorClass.LACKING, NO, FREE),
        (ErrorClass.EXECUTION, NO, NO),
        (ErrorClass.OUT_OF_MEMORY, AVOIDING, AVOIDING),
        (ErrorClass.DEVICE, AVOIDING, Verdict(retry=True, elsewhere=True)),
        (ErrorClass.INTERRUPTED, LATER, LATER),
        (ErrorClass.BACKEND_LOST, AVOIDING, AVOIDING),
        (ErrorClass.TIMEOUT, NO, AVOIDING),
        (ErrorClass.BACKEND_LATE, AVOIDING, AVOIDING),
        (ErrorClass.OUTPUT, NO, NO),
        (ErrorClass.OLD_OUTPUT, LATER, LATER),
        (ErrorClass.STORAGE, LATER, LATER),
        (ErrorClass.INPUT, NO, NO),
        (ErrorClass.INPUT_AWAY, LATER, LATER),
        (ErrorClass.BUG, NO, NO),
    ],
)
def test_the_class_of_an_error_decides(error_class: ErrorClass, alone: Verdict, beside: Verdict) -> None:
    assert verdict(error_class) == alone
    assert verdict(error_class, offered_elsewhere=True) == beside


@pytest.mark.parametrize("error_class", ErrorClass)
@pytest.mark.parametrize("left", [0, -1])
def test_without_attempts_left_there_is_only_one_that_does_not_count(error_class: ErrorClass, left: int) -> None:
    found = verdict(error_class, attempts_left=left, offered_elsewhere=True)
    assert found.retry is (RULES[error_class].against is Against.NOTHING)
    assert not (found.retry and found.counted)


@pytest.mark.parametrize("error_class", [each for each in ErrorClass if RULES[each].times == 1])
def test_what_failed_alike_before_is_not_tried_a_third_time(error_class: ErrorClass) -> None:
    assert verdict(error_class, offered_elsewhere=True).retry
    assert not verdict(error_class, offered_elsewhere=True, failed_alike=1).retry


@pytest.mark.parametrize("error_class", [ErrorClass.INVALID, ErrorClass.LACKING])
def test_what_the_same_backend_refuses_again_is_counted(error_class: ErrorClass) -> None:
    assert verdict(error_class, offered_elsewhere=True, failed_alike=1).counted
    assert not verdict(error_class, offered_elsewhere=True, failed_alike=1, attempts_left=0).retry
