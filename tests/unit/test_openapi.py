"""The OpenAPI document: valid, complete, and with every error code."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from app.domain import errors
from app.domain.access import Caller, Role
from app.main import create_app
from app.settings import ROOT, load_settings
from app.web.openapi import OPERATIONS, document
from app.web.permissions import PERMISSIONS, PUBLIC
from app.web.problems import RETRY_HELPS, STATUS_OF, status_of_code
from app.web.requests import JobRequest, ListQuery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BASE = "/api/v1/generation-jobs"


async def test_the_document_is_valid_openapi_3_1() -> None:
    assert document()["openapi"].startswith("3.1")
    validate(document(), cls=OpenAPIV31SpecValidator)


async def test_the_document_and_the_router_name_the_same_routes() -> None:
    routes = set()
    # Port 1 is never connected to: nothing starts here.
    away = {"database_url": "postgresql://u@127.0.0.1:1/db", "redis_url": "redis://127.0.0.1:1"}
    app = create_app(load_settings("test", **away))
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource else {}
        path = info.get("path") or info.get("formatter") or ""
        # HEAD comes with GET; of a path with and without a slash at the end one is named.
        if route.method not in ("HEAD", "*") and path.startswith(("/api", "/health", "/metrics", "/openapi")):
            routes.add((route.method.lower(), path.rstrip("/")))
    told = {(method, path.rstrip("/")) for path, methods in document()["paths"].items() for method in methods}
    assert told == routes


def test_every_operation_has_a_name_of_its_own_and_every_parameter_is_told() -> None:
    names = [operation["operationId"] for methods in document()["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            told = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert told == set(re.findall(r"{(\w+)}", path))
    listed = document()["paths"][f"{BASE}/"]["get"]["parameters"]
    assert {one["name"] for one in listed} == set(ListQuery.model_fields)


def test_the_document_tells_the_limits_of_what_is_sent() -> None:
    properties = document()["components"]["schemas"]["JobRequest"]["properties"]
    assert set(properties) == set(JobRequest.model_fields)
    assert (properties["width"]["minimum"], properties["width"]["maximum"]) == (64, 2048)
    assert properties["job_type"]["enum"] == ["image", "image_generation", "video", "audio", "workflow"]
    seed = document()["components"]["schemas"]["SamplerParams"]["properties"]["seed"]
    assert [one for one in seed["anyOf"] if one.get("maximum") == 2**64 - 1]


def test_every_example_is_an_answer_as_the_document_says() -> None:
    checked = 0
    for methods in document()["paths"].values():
        for operation in methods.values():
            answer = operation["responses"].get("200") or operation["responses"].get("201", {})
            content = answer.get("content", {}).get("application/json", {})
            if "example" in content:
                schema = content["schema"] | {"components": document()["components"]}
                jsonschema.Draft202012Validator(schema).validate(content["example"])
                named = document()["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                assert set(named["required"]) <= set(content["example"]) <= set(named["properties"])
                checked += 1
    assert checked >= 5


def test_the_document_says_who_may_what_as_the_table_does() -> None:
    schemes = document()["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme"), one.get("in")) for one in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "header"),
        ("apiKey", None, "cookie"),
    }
    public = set()
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            route = f"{method.upper()} {path.rstrip('/')}"
            answers = set(operation["responses"])
            if operation["security"] == []:
                public.add(route)
                assert "x-roles" not in operation
                assert not answers & {"401", "403", "429"}
                assert "421" in answers
            else:
                # Any of them will do, and none is passed by.
                assert operation["security"] == [{name: []} for name in schemes]
                assert answers >= {"400", "401", "403", "421", "429", "500", "503"}
                may = [role for role in Role if Caller("x", role, "x").may(PERMISSIONS[route])]
                assert operation["x-roles"] == may
                assert may
    assert public == {"GET /health/live", "GET /openapi.json"}
    assert public <= PUBLIC
    roles = {route: document()["paths"][f"{BASE}/{route}"] for route in ("", "queue/stats")}
    assert roles[""]["post"]["x-roles"] == ["user", "operator", "admin"]
    assert roles["queue/stats"]["get"]["x-roles"] == ["user", "viewer", "operator", "admin"]


def problems_of(operation: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the codes of an operation's problems by status."""
    kind = "application/problem+json"
    told = {
        status: answer["content"][kind]
        for status, answer in operation["responses"].items()
        if "content" in answer and kind in answer["content"]
    }
    return {status: content["schema"]["allOf"][1]["properties"]["code"]["enum"] for status, content in told.items()}


def test_every_problem_of_an_operation_is_told_by_its_codes_and_headers() -> None:
    listed = set()
    for methods in document()["paths"].values():
        for operation in methods.values():
            found = problems_of(operation)
            # Whatever is told beside what goes well is a problem.
            assert {status for status in operation["responses"] if status >= "400"} == set(found)
            for status, codes in found.items():
                assert codes == sorted(set(codes))
                assert {str(int(status_of_code(code))) for code in codes} == {status}
                headers = set(operation["responses"][status].get("headers", {}))
                if status in ("429", "503"):
                    assert "Retry-After" in headers
                assert (status == "429") == ("RateLimit" in headers) == ("RateLimit-Policy" in headers)
                assert ("WWW-Authenticate" in headers) == (status == "401")
                assert headers <= set(document()["components"]["headers"])
                listed |= set(codes)
    # Of sockets, of addresses that there are not, and of the page.
    others = {"too_many_sockets", "wrong_ticket", "method_not_allowed", "worker_not_found", "task_not_found"}
    assert listed == set(RETRY_HELPS) - others


def test_a_limit_is_told_where_it_can_be_reached() -> None:
    told = {
        f"{method} {path}": problems_of(operation).get("429", [])
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }
    common = {"too_many_requests", "too_many_wrong_keys"}
    more = {route: set(codes) - common for route, codes in told.items() if set(codes) - common}
    assert more == {
        f"post {BASE}/": {"too_many_waiting", "too_many_today", "upload_limit"},
        f"post {BASE}/{{job_id}}/retry": {"too_many_waiting", "too_many_today"},
        "post /api/v1/uploads": {"upload_limit"},
    }
    assert [route for route, codes in told.items() if not codes] == ["get /openapi.json", "get /health/live"]


def test_whose_a_job_is_may_be_left_to_the_key() -> None:
    schema = document()["components"]["schemas"]["JobRequest"]
    assert "user_id" not in schema.get("required", [])
    assert "while no key has been made" in schema["properties"]["user_id"]["description"]


def test_every_error_code_says_whether_a_retry_helps() -> None:
    answered = {kind.code for kind in _subclasses(errors.GenonautError) if set(kind.__mro__) & set(STATUS_OF)}
    # Only its subclasses are raised.
    answered.discard(errors.Unavailable.code)
    used = answered | set(_codes_in_handlers())
    assert used <= set(RETRY_HELPS)
    assert {"malformed_json", "internal_error", "body_too_large", "method_not_allowed"} <= used
    for code, helps in RETRY_HELPS.items():
        assert f"| `{code}` | {'yes' if helps else 'no'} |" in document()["info"]["description"]


@pytest.mark.parametrize("code", sorted(RETRY_HELPS))
def test_every_listed_code_is_one_that_the_server_gives(code: str) -> None:
    answered = {kind.code for kind in _subclasses(errors.GenonautError)}
    assert code in answered | set(_codes_in_handlers())


def _subclasses(kind: type[errors.GenonautError]) -> set[type[errors.GenonautError]]:
    return {kind}.union(*(_subclasses(each) for each in kind.__subclasses__()))


def _codes_in_handlers() -> Iterator[str]:
    """Yield the codes that are written out where problems are made."""
    for path in sorted((ROOT / "app" / "web").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "problem":
                yield from (each.value for each in node.args[2:3] if isinstance(each, ast.Constant))
            if path.name == "problems.py":
                yield from _assigned_codes(node)


def _assigned_codes(node: Any) -> Iterator[str]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        first = node.targets[0]
        if isinstance(first, ast.Tuple) and getattr(first.elts[0], "id", "") == "code":
            yield from (each.value for each in ast.walk(node.value.elts[0]) if isinstance(each, ast.Constant))
    if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "_CODE_OF" and node.value is not None:
        yield from (each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
