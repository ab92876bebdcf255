"""Dataclasses as JSON, and what such JSON looks like (JSON Schema 2020-12): read, written and described by the same annotations.

A field is a str, int, float, bool or Enum, another such dataclass, a tuple of one of these, or any of them or None. Bounds and words stand
in ``Annotated``. What has a default may be left out.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")

TEXT_MAX = 2000
LIST_MAX = 1000
INTEGER_MAX = 2**53
"""What every JSON reader takes exactly (RFC 8259 section 6)."""


class InvalidValue(ValueError):
    """JSON that is not the value that is wanted; ``where`` is the field. The message does not hold what was sent: it may be a secret."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        super().__init__(f"{where}: {reason}" if where else reason)


@dataclass(frozen=True, slots=True)
class Note:
    """What the annotation of a field says beyond its type. ``longest``: characters, or entries of a list; ``most``: of a number."""

    about: str
    longest: int | None = None
    least: float | None = None
    most: float | None = None
    example: str = ""
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a dataclass: its type without ``Annotated`` and None, and what is said about it."""

    name: str
    kind: Any
    is_optional: bool
    is_required: bool
    note: Note


def fields_of(kind: type[Any]) -> tuple[Field, ...]:
    """The fields of a dataclass, in their order."""
    return _fields_of(kind)  # type: ignore[arg-type]  # mypy does not know that classes are hashable


@cache
def _fields_of(kind: type[Any]) -> tuple[Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        bare, is_optional, note = _unwrap(hints[field.name])
        is_required = field.default is MISSING and field.default_factory is MISSING
        found.append(Field(field.name, bare, is_optional, is_required, note))
    return tuple(found)


def _unwrap(hint: Any) -> tuple[Any, bool, Note]:
    """``Annotated[X, Note] | None`` and the like -> X, whether None is allowed, and the note."""
    note, is_optional = Note(""), False
    while True:
        if get_origin(hint) is Annotated:
            hint, *said = get_args(hint)
            note = next((one for one in said if isinstance(one, Note)), note)
        elif get_origin(hint) in (types.UnionType, Union):  # the latter where a part is Annotated
            (hint,) = (one for one in get_args(hint) if one is not type(None))
            is_optional = True
        else:
            return hint, is_optional, note


def read(kind: type[Value], data: Mapping[str, Any], *, is_strict: bool = True) -> Value:
    """A dataclass out of a JSON object; InvalidValue. ``is_strict``: a field that is not known is refused, else passed over."""
    fields = fields_of(kind)
    if is_strict and (unknown := data.keys() - {field.name for field in fields}):
        known = ", ".join(field.name for field in fields) or "none"
        raise InvalidValue("", f"the field {sorted(unknown)[0][:60]!r} is not known here; known: {known}")
    values = {}
    for field in fields:
        if field.name in data:
            values[field.name] = _read(field.name, field, data[field.name], is_strict)
        elif field.is_required:
            raise InvalidValue(field.name, "it is missing")
    return kind(**values)


def read_texts(kind: type[Value], texts: Mapping[str, str]) -> Mapping[str, Any]:
    """What a path or a query says as strings, as the JSON that `read` takes."""
    kinds = {field.name: field.kind for field in fields_of(kind)}
    return {name: _from_text(name, kinds.get(name), text) for name, text in texts.items()}


def _from_text(name: str, kind: Any, text: str) -> Any:
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int or kind is float:
        try:
            return kind(text[:40])
        except ValueError:
            raise InvalidValue(name, "it is not a number") from None
    return text


def _read(where: str, field: Field, value: Any, is_strict: bool) -> Any:
    if value is None and field.is_optional:
        return None
    kind, note = field.kind, field.note
    if get_origin(kind) is tuple:
        longest = note.longest or LIST_MAX
        if not isinstance(value, list) or (is_strict and len(value) > longest):
            raise InvalidValue(where, f"it is not a list of at most {longest}")
        of, is_optional, note = _unwrap(get_args(kind)[0])
        entry = Field(field.name, of, is_optional, True, note)
        return tuple(_read(f"{where}[{index}]", entry, one, is_strict) for index, one in enumerate(value))
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InvalidValue(where, "it is not an object")
        return read(kind, value, is_strict=is_strict)  # type: ignore[arg-type]
    if kind is str:
        return _read_text(where, note, value, is_strict)
    if kind is bool:
        if not isinstance(value, bool):
            raise InvalidValue(where, "it is neither true nor false")
        return value
    if issubclass(kind, Enum):
        choices = {one.value: one for one in kind}
        if not isinstance(value, str) or value not in choices:
            raise InvalidValue(where, f"it is not one of {', '.join(choices)}")
        return choices[value]
    return _read_number(where, kind, note, value)


def _read_text(where: str, note: Note, value: Any, is_strict: bool) -> str:
    if not isinstance(value, str):
        raise InvalidValue(where, "it is not a string")
    longest = note.longest or TEXT_MAX
    if is_strict and len(value) > longest:
        raise InvalidValue(where, f"it is longer than {longest} characters")
    return value


def _read_number(where: str, kind: Any, note: Note, value: Any) -> Any:
    is_number = isinstance(value, int) or (kind is float and isinstance(value, float))
    if isinstance(value, bool) or not is_number or not math.isfinite(value) or abs(value) > INTEGER_MAX:
        raise InvalidValue(where, "it is not a number" if kind is float else "it is not a whole number")
    if (note.least is not None and value < note.least) or (note.most is not None and value > note.most):
        raise InvalidValue(where, f"it is not between {note.least} and {note.most}")
    return kind(value)


def write(value: Any) -> Any:
    """A dataclass, or what one is made of, as JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: write(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [write(one) for one in value]
    return value.value if isinstance(value, Enum) else value


# -- what it looks like


def schema_of(field: Field, names: dict[str, type]) -> dict[str, Any]:
    """The schema of one field; dataclasses that it leads to are added to ``names`` and referred to by name."""
    schema = _schema(field.kind, field.note, names)
    if field.is_optional and "$ref" in schema:
        schema = {"anyOf": [schema, {"type": "null"}]}
    elif field.is_optional:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    if field.note.about:
        schema["description"] = field.note.about
    if field.note.example:
        schema["examples"] = [field.note.example]
    if field.note.is_secret:
        schema["format"] = "password"
    return schema


def object_schema(kind: type, names: dict[str, type], *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The schema of a dataclass. ``leave_out``: fields that stand elsewhere, in the path."""
    fields = [field for field in fields_of(kind) if field.name not in leave_out]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: schema_of(field, names) for field in fields},
    }
    if required := [field.name for field in fields if field.is_required]:
        schema["required"] = required
    if kind.__doc__:
        schema["description"] = " ".join(kind.__doc__.replace("``", "`").split())
    return schema


def _schema(kind: Any, note: Note, names: dict[str, type]) -> dict[str, Any]:
    if get_origin(kind) is tuple:
        of, is_optional, entry_note = _unwrap(get_args(kind)[0])
        entry = Field("", of, is_optional, True, entry_note)
        schema = {"type": "array", "items": schema_of(entry, names)}
        return schema | ({"maxItems": note.longest} if note.longest else {})
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        names[name] = kind  # type: ignore[assignment]
        return {"$ref": f"#/components/schemas/{name}"}
    if kind is str:
        return {"type": "string"} | ({"maxLength": note.longest} if note.longest else {})
    if kind is bool:
        return {"type": "boolean"}
    if issubclass(kind, Enum):
        return {"type": "string", "enum": [one.value for one in kind]}
    bounds = {"minimum": note.least, "maximum": note.most}
    return {"type": "integer" if kind is int else "number"} | {
        name: bound for name, bound in bounds.items() if bound is not None
    }
