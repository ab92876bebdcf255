"""The description of ``/api/v1`` (OpenAPI 3.1), made from the table that it is routed and parsed by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from registry.operations import NONE, Operation, Who
from registry.values import fields_of, object_schema, schema_of

_REFUSALS = {
    400: "The question cannot be understood",
    401: "Nobody is logged in, or by a token that is for images",
    403: "Who is logged in may not do this",
    404: "There is nobody and nothing of that name",
    409: "It cannot be done as things are; also: the hub has no accounts yet",
}
_ERRORS: dict[str, Any] = {
    "type": "object",
    "description": "Why it was not done, in the form of the registry's errors (distribution-spec, Error Codes).",
    "properties": {
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "detail": {"type": "object", "properties": {"request_id": {"type": "string"}}},
                },
                "required": ["code", "message", "detail"],
            },
        }
    },
    "required": ["errors"],
}


def describe(operations: Iterable[Operation[Any, Any]], base: str) -> dict[str, Any]:
    """The document, for an API below the path ``base``."""
    names: dict[str, type] = {}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, names)
    schemas: dict[str, Any] = {}
    while missing := names.keys() - schemas.keys():  # describing one may lead to others
        for name in sorted(missing):
            schemas[name] = object_schema(names[name], names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Portside administration",
            "version": _version(),
            "description": "People, rights and the audit trail of a hub. Times are seconds of the Unix clock.",
        },
        "servers": [{"url": base}],
        "security": [{"password": []}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Errors": _ERRORS},
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A name and a password or personal token.",
                },
                "token": {"type": "http", "scheme": "bearer", "description": "A personal token alone."},
            },
        },
    }


def _operation(operation: Operation[Any, Any], names: dict[str, type]) -> dict[str, Any]:
    in_path = frozenset(path_names(operation.path))
    fields = {field.name: field for field in fields_of(operation.question)}
    parameters = [
        {
            "name": name,
            "in": "path" if name in in_path else "query",
            "required": name in in_path or field.is_required,
            "schema": schema_of(field, names),
        }
        for name, field in fields.items()
        if name in in_path or not operation.has_body
    ]
    said: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "description": f"For {operation.who.value}.",
        "parameters": parameters,
        "responses": _responses(operation, names),
    }
    if operation.has_body:
        schema = object_schema(operation.question, names, leave_out=in_path) | {"additionalProperties": False}
        is_needed = any(field.is_required for field in fields.values() if field.name not in in_path)
        said["requestBody"] = {"required": is_needed, "content": {"application/json": {"schema": schema}}}
    return said


def _responses(operation: Operation[Any, Any], names: dict[str, type]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done"}
    if operation.answer is not NONE:
        names[operation.answer.__name__] = operation.answer
        schema = {"$ref": f"#/components/schemas/{operation.answer.__name__}"}
        done["content"] = {"application/json": {"schema": schema}}
    refusals = dict(_REFUSALS)
    if operation.who is Who.ANYBODY:
        del refusals[404]
    if operation.proof is not None:
        refusals[429] = "Too many passwords were tried: Retry-After says when to try again"
    errors = {"application/json": {"schema": {"$ref": "#/components/schemas/Errors"}}}
    return {str(operation.status): done} | {
        str(status): {"description": about, "content": errors} for status, about in refusals.items()
    }


def path_names(path: str) -> list[str]:
    """The names that stand in braces in a path."""
    return re.findall(r"{(\w+)}", path)


def _version() -> str:
    try:
        return version("portside")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
