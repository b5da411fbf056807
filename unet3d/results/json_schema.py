"""results.json's JSON Schema (draft 7), made from the declaration in `unet3d.results.schema`.

python -m unet3d.results.json_schema    writes results.schema.json beside this file; a test compares
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from unet3d import json_files
from unet3d.results import schema
from unet3d.results.limits import EmptyUntilKnown, Keys, Known, Length, Limits, Pattern, Together
from unet3d.results.schema import Results

FILE = Path(__file__).with_name("results.schema.json")
Node = dict[str, Any]  # a JSON Schema, or a part of one

# JSON knows neither NaN nor infinity, and no quantity of a run is near these ends: they keep out what cannot be drawn.
LARGEST = 1e20
LONGEST = 100_000  # characters of a text
_SCALARS: dict[object, Node] = {
    str: {"type": "string", "maxLength": LONGEST},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -LARGEST, "maximum": LARGEST},
    float: {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
    types.NoneType: {"type": "null"},
}
VALUE: Node = {"$ref": "#/definitions/Value"}


def document() -> Node:
    """The whole schema."""
    definitions: dict[str, Node] = {
        "Value": {
            "description": "Anything that JSON holds.",
            "anyOf": [
                *(_SCALARS[kind] for kind in (types.NoneType, bool, float, str)),
                {"type": "array", "items": VALUE},
                {"type": "object", "additionalProperties": VALUE},
            ],
        }
    }
    root = _typed(Results, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "results.json, schema_version 2",
        **definitions.pop(root["$ref"].rpartition("/")[2]),
        "definitions": dict(sorted(definitions.items())),
    }


def text() -> str:
    """results.schema.json."""
    return json_files.text(document())


def _node(kind: Any, definitions: dict[str, Node]) -> Node:
    """The schema of a type."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if is_typeddict(kind):
        return _typed(kind, definitions)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _constrained(_node(arguments[0], definitions), arguments[1:], definitions)
    if origin in (NotRequired, Required):
        return _node(arguments[0], definitions)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        if any(isinstance(argument, ForwardRef) or "Value" in str(argument) for argument in arguments):
            return VALUE
        return {"anyOf": [_node(argument, definitions) for argument in arguments]}
    if origin is list:
        return {"type": "array", "items": _node(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _node(arguments[1], definitions)}
    raise TypeError(f"{kind}: JSON Schema is not known of this type")


def _typed(kind: Any, definitions: dict[str, Node]) -> Node:
    """A reference to the definition of a TypedDict, which is made at first."""
    name: str = kind.__name__
    if name not in definitions:
        definitions[name] = {}
        hints = get_type_hints(kind, vars(schema), include_extras=True)
        required = [key for key, hint in hints.items() if _is_required(hint, kind.__total__)]
        definitions[name] = {
            "description": " ".join(str(kind.__doc__).split()),
            "type": "object",
            "properties": {key: _node(hint, definitions) for key, hint in hints.items()},
            **({"required": required} if required else {}),
            "additionalProperties": VALUE,
        }
    return {"$ref": f"#/definitions/{name}"}


def _is_required(hint: Any, total: bool) -> bool:
    origin = get_origin(hint)
    return origin is Required or (total and origin is not NotRequired)


def _constrained(node: Node, marks: Sequence[object], definitions: dict[str, Node]) -> Node:
    parts: list[Node] = []
    for mark in marks:
        match mark:
            case Limits(least, most):
                node = {**node, "minimum": least, "maximum": most}
            case Pattern(regex):
                node = {**node, "pattern": f"^{regex}$"}
            case Length(least, most):
                node = {**node, "minItems": least, "maxItems": most}
            case Keys(names):
                node = {**node, "required": list(names)}
            case Known(kinds):
                node = {**node, "properties": {name: _node(kind, definitions) for name, kind in kinds}}
            case EmptyUntilKnown(names):
                parts.append({"anyOf": [{"type": "object", "maxProperties": 0}, {"type": "object", "required": list(names)}]})
            case Together(first, others):
                parts.append({"type": "object", "dependencies": {first: list(others)}})
            case _:
                raise TypeError(f"{mark}: JSON Schema has no word for it")
    return {"allOf": [node, *parts]} if parts else node


if __name__ == "__main__":
    json_files.write(FILE, document())
