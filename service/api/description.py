"""The OpenAPI description, completed with what holds for every route: errors, tokens, limits."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.access.policy import SAFE, needed
from service.api.idempotency import HEADER
from service.api.problems import MEDIA_TYPE, Problem

PROBLEM = {"$ref": "#/components/schemas/Problem"}
_ANY_ERROR = {
    "description": "Any other error: no or too small a token (401, 403), too large (413), too often (429), "
    "the database away (503).",
    "content": {MEDIA_TYPE: {"schema": PROBLEM}},
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of `autombw token create`. None is needed on loopback while none was ever made.",
}
_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A new UUID for each request: sent again with it, the work is done once (docs/api.md).",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!#-~]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}


def install(app: FastAPI) -> None:
    """Complete what FastAPI says of `app`."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        return plain()

    app.openapi = complete  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> None:
    components = schema.setdefault("components", {})
    components.setdefault("securitySchemes", {})["token"] = _BEARER
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, method.upper(), operation)


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    role = needed(method, path)
    operation["security"] = [{"token": []}] if role else []
    if role and method not in SAFE:
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role `{role.value}`."
    if method == "POST":
        operation.setdefault("parameters", []).append(_KEY)
    answers = operation["responses"]
    for status, answer in answers.items():
        if status[0] in "45" and not _tells_something_else(answer):
            answer["content"] = {MEDIA_TYPE: {"schema": PROBLEM}}
    answers["default"] = _ANY_ERROR
    if "422" in answers and answers["422"].get("description") == "Validation Error":
        answers["422"]["description"] = "The input is wrong."


def _tells_something_else(answer: dict[str, Any]) -> bool:
    """Whether an error has a body of its own, as readiness has, and is no problem."""
    told = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    return bool(told) and told.rsplit("/", 1)[1] not in ("Problem", "HTTPValidationError")
