"""Whether a value is as a JSON Schema says: the part of draft 7 that `unet3d.results.json_schema` writes.

Besides the schema two things are refused that JSON holds and nothing can work with: values nested deeper than DEEPEST, and
text that is no Unicode (a lone surrogate, which could not be written again).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unet3d.errors import shown

DEEPEST = 32
Node = Mapping[str, Any]
_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_NAMES = {
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "array": "a list",
    "object": "an object",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Fault(Exception):
    """The first thing that is wrong; `where` the value is, from the document's root, and what is wrong with it."""

    def __init__(self, where: tuple[str | int, ...], what: str):
        super().__init__(f"{path(where)}: {what}" if where else what)
        self.where = where


def path(where: Sequence[str | int]) -> str:
    """`samples.latency_ms[3]`, as one readable line."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step, 60)}" for step in where)
    return shown(text.removeprefix("."))


def validate(value: object, schema: Node) -> None:
    """See that a value which was read from JSON is as the schema says.

    Raises:
        Fault: with the first thing that is not.
    """
    _Validator(schema).check(value, schema, ())


class _Validator:
    def __init__(self, schema: Node):
        self._definitions: Mapping[str, Node] = schema.get("definitions", {})

    def check(self, value: Any, node: Node, where: tuple[str | int, ...]) -> None:
        if "$ref" in node:
            node = self._definitions[node["$ref"].rpartition("/")[2]]
        if len(where) > DEEPEST:
            raise Fault(where[:4], f"values are nested in one another, at most {DEEPEST} deep are allowed")
        if "enum" in node and not any(type(value) is type(one) and value == one for one in node["enum"]):
            raise Fault(where, f"{_told(value)} is not allowed; use {' or '.join(map(str, node['enum']))}")
        if "anyOf" in node:
            self._any(value, node["anyOf"], where)
        for part in node.get("allOf", ()):
            self.check(value, part, where)
        kind = node.get("type")
        if kind is None:
            return
        if type(value) not in _TYPES[kind] or (kind == "integer" and isinstance(value, float) and not value.is_integer()):
            raise Fault(where, f"{_told(value)} is not allowed; use {_NAMES[kind]}")
        checks: dict[str, Callable[[Any, Node, tuple[str | int, ...]], None]] = {
            "number": self._number,
            "integer": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }
        if kind in checks:
            checks[kind](value, node, where)

    def _any(self, value: object, parts: Sequence[Node], where: tuple[str | int, ...]) -> None:
        faults = []
        for part in parts:
            try:
                return self.check(value, part, where)
            except Fault as fault:
                faults.append(fault)
        # The form that it is nearest to is the one whose fault lies deepest.
        raise max(faults, key=lambda fault: len(fault.where))

    @staticmethod
    def _number(value: float, node: Node, where: tuple[str | int, ...]) -> None:
        least, most = node.get("minimum"), node.get("maximum")
        if least is not None and most is not None and not least <= value <= most:
            raise Fault(where, f"{_told(value)} is not allowed; use {_NAMES[node['type']]} from {least:g} to {most:g}")

    @staticmethod
    def _string(value: str, node: Node, where: tuple[str | int, ...]) -> None:
        if len(value) > node.get("maxLength", len(value)):
            raise Fault(where, f"a text of {len(value)} characters is not allowed; use at most {node['maxLength']}")
        if "pattern" in node and not re.search(node["pattern"].removesuffix("$") + r"\Z", value):
            raise Fault(where, f"{_told(value)} is not allowed; use a text of the form {node['pattern']}")
        if not value.isascii() and _SURROGATE.search(value):
            raise Fault(where, f"{_told(value)} is not allowed; use Unicode text")

    def _array(self, value: list[Any], node: Node, where: tuple[str | int, ...]) -> None:
        if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value)):
            raise Fault(where, f"a list of {len(value)} is not allowed; use {node['minItems']} to {node['maxItems']} items")
        items = node["items"]
        if _all_numbers_within(value, items):  # a million samples are checked at the speed of C
            return
        for index, item in enumerate(value):
            self.check(item, items, (*where, index))

    def _object(self, value: dict[str, Any], node: Node, where: tuple[str | int, ...]) -> None:
        if len(value) > node.get("maxProperties", len(value)):
            raise Fault(where, f"{len(value)} keys are not allowed; use at most {node['maxProperties']}")
        for key in node.get("required", ()):
            if key not in value:
                raise Fault(where, f"{key} is missing" if not where else f"its {key} is missing")
        for first, others in node.get("dependencies", {}).items():
            for key in others if first in value else ():
                if key not in value:
                    raise Fault(where, f"{first} is there without {key}")
        declared, other = node.get("properties", {}), node.get("additionalProperties")
        for key, item in value.items():
            if not key.isascii() and _SURROGATE.search(key):
                raise Fault(where, f"the key {_told(key)} is not allowed; use Unicode text")
            part = declared.get(key, other)
            if part is False:
                raise Fault((*where, key), "is not declared")
            if part is not None:
                self.check(item, part, (*where, key))


def _all_numbers_within(values: Sequence[Any], node: Node) -> bool:
    """Whether all are numbers that the node allows; False too where that must be looked at one by one."""
    whole = node.get("type") == "integer"
    if not values or "minimum" not in node or not set(map(type, values)) <= ({int} if whole else {int, float}):
        return False
    # NaN would be neither in nor out; the reader has refused it, and min and max find infinities.
    return bool(node["minimum"] <= min(values) and max(values) <= node["maximum"])


def _told(value: object) -> str:
    """A value in a message."""
    if isinstance(value, str):
        return f"'{shown(value, 60)}'"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown(value, 60)
