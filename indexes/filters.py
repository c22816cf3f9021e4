"""A caller's filter, checked and typed. Pure: the store makes SQL of the result, with every value bound.

Keys are `path`, `source`, `content_type`, `modified_at` and the keys of the documents' metadata. Operators are `eq`,
`ne`, `gt`, `gte`, `lt`, `lte`, `in`, `nin` and `prefix`. An empty `and` is everything, an empty `or` nothing; an empty
`in` is nothing, an empty `nin` everything.
"""

import math
import re
from collections.abc import Callable
from datetime import date
from typing import Final, Literal

from indexes.errors import InvalidQuery
from indexes.types import Comparison, Filter, Junction

Scalar = str | int | float | bool

MAX_DEPTH: Final = 5
"""Most `and`/`or` within one another."""
MAX_TERMS: Final = 50
"""Most comparisons; an empty `and`/`or` counts as one."""
MAX_LIST: Final = 1_000
MAX_TEXT: Final = 4_096
"""Most characters of one string value: as long as a path may be."""

OPERATORS: Final = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix"})
ORDERING: Final = frozenset({"gt", "gte", "lt", "lte"})
TEXT_KEYS: Final = frozenset({"path", "source", "content_type"})
TIME_KEYS: Final = frozenset({"modified_at"})
RESERVED_KEYS: Final = frozenset(
    {
        "tenant",
        "owner",
        "allow",
        "allowed",
        "collection",
        "document_id",
        "id",
        "version",
        "metadata",
        "and",
        "or",
        "not",
    }
)
"""Not fields of a document that a caller may filter by: who may see what stands outside the filter."""

_METADATA_KEY = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<off_hour>[0-9]{2}):(?P<off_minute>[0-9]{2})))?"
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def parse_filter(value: object) -> Filter:
    """Return the filter that the JSON value `value` stands for.

    Values keep their type: `true` is not 1. A value for `modified_at` is an RFC 3339 date (midnight UTC) or date-time
    and becomes integer nanoseconds since the epoch, UTC, held within 64 bits (years 1677 to 2262). Raises InvalidQuery,
    which names the place, for whatever is not in the grammar.
    """
    parsed, _ = _parse(value, "filter", MAX_DEPTH, MAX_TERMS)
    return parsed


def is_metadata_key(key: str) -> bool:
    """Whether documents may have metadata under this name, and be found by it."""
    if key in TEXT_KEYS | TIME_KEYS or key.lower() in RESERVED_KEYS:
        return False
    return _METADATA_KEY.fullmatch(key) is not None


def _parse(value: object, place: str, depth: int, terms: int) -> tuple[Filter, int]:
    """Parse one node with `depth` junctions and `terms` comparisons to spare; return it with the terms left."""
    if not isinstance(value, dict):
        raise InvalidQuery(f'{place}: expected {{"key", "op", "value"}}, {{"and": [...]}} or {{"or": [...]}}')
    if terms < 1:
        raise InvalidQuery(f"{place}: a filter has at most {MAX_TERMS} terms")
    members = set(value)
    if members == {"and"}:
        return _parse_junction("and", value["and"], place, depth, terms)
    if members == {"or"}:
        return _parse_junction("or", value["or"], place, depth, terms)
    if members != {"key", "op", "value"}:
        raise InvalidQuery(f'{place}: a term has exactly "key", "op" and "value", or one of "and" and "or"')
    return _parse_comparison(value["key"], value["op"], value["value"], place), terms - 1


def _parse_junction(
    op: Literal["and", "or"], members: object, place: str, depth: int, terms: int
) -> tuple[Junction, int]:
    place = f"{place}.{op}"
    if depth < 1:
        raise InvalidQuery(f"{place}: at most {MAX_DEPTH} levels of and/or")
    if not isinstance(members, list | tuple):
        raise InvalidQuery(f"{place}: expected a list of terms")
    parsed: list[Filter] = []
    left = terms if members else terms - 1
    for position, member in enumerate(members):
        term, left = _parse(member, f"{place}[{position}]", depth - 1, left)
        parsed.append(term)
    return Junction(op, tuple(parsed)), left


def _parse_comparison(key: object, op: object, value: object, place: str) -> Comparison:
    if not isinstance(key, str) or not (key in TEXT_KEYS | TIME_KEYS or is_metadata_key(key)):
        raise InvalidQuery(
            f"{place}.key: not a field to filter by; use path, source, content_type, modified_at or a metadata key "
            "(letters, digits, _ . -, at most 64, beginning with a letter or _)"
        )
    if not isinstance(op, str) or op not in OPERATORS:
        raise InvalidQuery(f"{place}.op: unknown operator; use one of {', '.join(sorted(OPERATORS))}")
    read = _reader(key, op, place)
    place = f"{place}.value"
    if op not in ("in", "nin"):
        return Comparison(key, op, read(value, place))
    if not isinstance(value, list | tuple) or len(value) > MAX_LIST:
        raise InvalidQuery(f"{place}: {op} needs a list of at most {MAX_LIST} values")
    return Comparison(key, op, tuple(read(item, f"{place}[{index}]") for index, item in enumerate(value)))


def _reader(key: str, op: str, place: str) -> Callable[[object, str], Scalar]:
    """Return what reads one value of `key` under `op`."""
    if key in TIME_KEYS:
        if op == "prefix":
            raise InvalidQuery(f"{place}.op: prefix is for text; compare {key} with gte and lt")
        return _read_time
    if key in TEXT_KEYS or op == "prefix":
        return _read_text
    return _read_ordered if op in ORDERING else _read_scalar


def _read_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidQuery(f"{place}: expected a string")
    if len(value) > MAX_TEXT:
        raise InvalidQuery(f"{place}: longer than {MAX_TEXT} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidQuery(f"{place}: not a text: it has a NUL or half of a surrogate pair")
    return value


def _read_ordered(value: object, place: str) -> str | int | float:
    if isinstance(value, bool):
        raise InvalidQuery(f"{place}: true and false have no order; use eq or ne")
    if isinstance(value, int):
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise InvalidQuery(f"{place}: an integer of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidQuery(f"{place}: not a finite number")
        return value
    if isinstance(value, str):
        return _read_text(value, place)
    raise InvalidQuery(f"{place}: expected a string, a number, true or false")


def _read_scalar(value: object, place: str) -> Scalar:
    return value if isinstance(value, bool) else _read_ordered(value, place)


def _read_time(value: object, place: str) -> int:
    """Read an RFC 3339 date or date-time as nanoseconds since the epoch, UTC."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidQuery(f"{place}: expected a date or date-time such as 2026-01-31 or 2026-01-31T09:30:00Z")
    part = match.groupdict(default="0")
    hour, minute, second = int(part["hour"]), int(part["minute"]), int(part["second"])
    off_hour, off_minute = int(part["off_hour"]), int(part["off_minute"])
    try:
        day = date.fromisoformat(part["date"]).toordinal() - _EPOCH_DAY
    except ValueError:
        raise InvalidQuery(f"{place}: there is no such day") from None
    offset = (off_hour * 60 + off_minute) * (-1 if part["sign"] == "-" else 1)
    # A leap second can only end a UTC day; it counts as the second after it, as it does in POSIX time.
    leap = second == 60 and (hour * 60 + minute - offset) % 1440 == 1439
    if hour > 23 or minute > 59 or (second > 59 and not leap) or off_hour > 23 or off_minute > 59:
        raise InvalidQuery(f"{place}: there is no such time of day or offset")
    seconds = day * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60
    nanoseconds = seconds * 1_000_000_000 + int(part["fraction"].ljust(9, "0"))
    return max(_INT64_MIN, min(_INT64_MAX, nanoseconds))
