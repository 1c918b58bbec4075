"""What a JSON document has to look like, said in a few words and checked while it is taken apart.

A rule takes a value and its place in the document, and returns the value or raises ValueError that names the place:
``rows(integer(0), number())`` is a list of pairs of a natural number and any finite number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "Rule",
    "either",
    "entries",
    "fields",
    "integer",
    "lists",
    "maybe",
    "number",
    "one_of",
    "read",
    "row",
    "rows",
    "text",
]

Rule = Callable[[Any, str], Any]

LARGEST = 1e30
"""No number may be larger: times and flops, of which sums and products have to stay finite."""


def read(path: str | Path) -> Any:
    """The document in a file. ValueError if it is no JSON, OSError if it cannot be read."""
    data = Path(path).read_bytes()
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error


def _refuse(value: Any, place: str, wanted: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{place} is {shown if len(shown) < 60 else shown[:60] + '...'}, not {wanted}")


def integer(least: int, most: int = 2**62) -> Rule:
    """A whole number in a range, both ends in it."""

    def check(value: Any, place: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _refuse(value, place, f"an integer from {least} to {most}")
        return value

    return check


def number(least: float = -LARGEST) -> Rule:
    """A finite number."""

    def check(value: Any, place: str) -> float:
        if (type(value) is not float and type(value) is not int) or not least <= value <= LARGEST:
            raise _refuse(value, place, f"a number from {least:g} to {LARGEST:g}")
        return value

    return check


def text(value: Any, place: str) -> str:
    """A string."""
    if type(value) is not str:
        raise _refuse(value, place, "a string")
    return value


def one_of(*values: Any) -> Rule:
    """One of these strings."""

    def check(value: Any, place: str) -> Any:
        if type(value) is not str or value not in values:
            raise _refuse(value, place, f"one of {', '.join(values)}")
        return value

    return check


def maybe(rule: Rule) -> Rule:
    """What the rule says, or null."""
    return lambda value, place: None if value is None else rule(value, place)


def either(first: Rule, second: Rule) -> Rule:
    """What one of two rules says."""

    def check(value: Any, place: str) -> Any:
        try:
            return first(value, place)
        except ValueError:
            return second(value, place)

    return check


def lists(rule: Rule, length: int | None = None) -> Rule:
    """A list of such values, of that length if one is given."""

    def check(value: Any, place: str) -> list[Any]:
        if type(value) is not list:
            raise _refuse(value, place, "a list")
        if length is not None and len(value) != length:
            raise ValueError(f"{place} has {len(value)} entries, not {length}")
        return [rule(item, f"{place}[{number}]") for number, item in enumerate(value)]

    return check


def row(*rules: Rule) -> Rule:
    """A list with one value for each rule."""

    def check(value: Any, place: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(rules):
            raise _refuse(value, place, f"a list of {len(rules)}")
        return tuple([rule(item, place) for rule, item in zip(rules, value, strict=True)])

    return check


def rows(*rules: Rule, length: int | None = None) -> Rule:
    """A list of lists with one value for each rule."""
    return lists(row(*rules), length)


def entries(key: Callable[[str], Any], rule: Rule) -> Rule:
    """An object of such values with any keys, which ``key`` makes of their names."""

    def check(value: Any, place: str) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _refuse(value, place, "an object")
        try:
            return {key(name): rule(item, f"{place}.{name}") for name, item in value.items()}
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{place} has a key that it cannot have: {error}") from error

    return check


def fields(value: Any, place: str, rules: Mapping[str, Rule], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object with these fields and no other."""
    if type(value) is not dict:
        raise _refuse(value, place, "an object")
    if unknown := sorted(value.keys() - rules.keys()):
        raise ValueError(f"{place} has a field {unknown[0]!r}, which this version does not know")
    if missing := sorted(rules.keys() - value.keys() - set(optional)):
        raise ValueError(f"{place} has no {missing[0]!r}")
    return {name: rule(value[name], f"{place}.{name}") for name, rule in rules.items() if name in value}
