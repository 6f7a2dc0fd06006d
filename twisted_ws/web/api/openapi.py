"""The OpenAPI 3.1 document of the HTTP API, made from the table by which requests are routed and read."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from twisted_ws import __version__
from twisted_ws.channels.channels import LONGEST_KEY
from twisted_ws.web.api import schemas
from twisted_ws.web.api.operation import PARTS, Operation
from twisted_ws.web.api.operations import OPERATIONS
from twisted_ws.web.http.content import IDEMPOTENCY_KEY
from twisted_ws.web.http.response import jsonBody

if TYPE_CHECKING:
    from twisted_ws.limits import Limits

PATH = "/api/openapi.json"
_REF = "#/components/schemas/{name}"
# Any request can have these answers: see docs/reference/http.md.
_ERRORS = (400, 401, 403, 405, 408, 411, 421, 429, 503)
# The keyword that stands for `x-limit`, by type.
_BOUNDS = {"string": "maxLength", "integer": "maximum", "array": "maxItems"}


@lru_cache(16)  # it takes milliseconds, and the servers of one process seldom differ
def openAPI(limits: Limits, challenges: tuple[str, ...]) -> bytes:
    """Return the document as JSON.

    Args:
        limits: the server's.
        challenges: the values of WWW-Authenticate, which name the schemes of authentication.
    """
    schemes = [challenge.partition(" ")[0].lower() for challenge in challenges]
    kinds = [getattr(schemas, name) for name in schemas.__all__]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for kind in kinds:
        if getattr(kind, "choice", ()):
            components[kind.__name__]["oneOf"] = [{"required": [name]} for name in kind.choice]
    paths: dict[str, dict[str, Any]] = {
        PATH: {"get": {"operationId": "openapi", "summary": "This document", "security": [], "responses": _responses(None, ())}}
    }
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, components)
    components = {name: schema for name, schema in components.items() if not name.endswith("Query")}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "twisted_ws", "version": __version__, "summary": "Publish to channels, and inspect them"},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {scheme: {"type": "http", "scheme": scheme} for scheme in schemes},
        },
        "security": [{scheme: []} for scheme in schemes],
    }
    return jsonBody(_bounded(document, limits))


def _describe(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": _parameters(operation, components),
        "responses": _responses(operation.answer.__name__, operation.errors),
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.body.__name__)}
    elif operation.posts:
        content = {
            "text/plain": {"schema": {"type": "string", "minLength": 1}},
            "application/json": {"schema": {}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
        }
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if "{channel}" in operation.path:
        parameters.append(
            {"name": "channel", "in": "path", "required": True, "schema": components["ListedChannel"]["properties"]["channel"]}
        )
    for part in PARTS.values():
        if part != "channel" and f"{{{part}}}" in operation.path:
            parameters.append({"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    if operation.query is not None:
        described = components[operation.query.__name__]
        required = described.get("required", ())
        for name, schema in described["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in required, "schema": schema})
    if operation.posts:
        key = {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY}$", "maxLength": LONGEST_KEY}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
    return parameters


def _responses(answer: str | None, errors: tuple[int, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}} if answer is None else _json(answer)
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status in sorted((*_ERRORS, *errors)):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": _json("Failed")}
    return responses


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(name=name)}}}


def _bounded(value: Any, limits: Limits) -> Any:
    """Return a schema with the values of the limits that it names."""
    if isinstance(value, list):
        return [_bounded(each, limits) for each in value]
    if not isinstance(value, dict):
        return value
    bounded = {key: _bounded(each, limits) for key, each in value.items() if key != "x-limit"}
    if "x-limit" in value:
        bounded[_BOUNDS[value["type"]]] = getattr(limits, value["x-limit"])
    return bounded
