"""The grammar of filters: what is let in, as what, and that every refusal names its place."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import InvalidQuery
from indexes.filters import MAX_DEPTH, MAX_LIST, MAX_TERMS, OPERATORS, parse_filter
from indexes.types import Comparison, Junction


def term(key: object = "path", op: object = "eq", value: object = "a") -> dict:
    return {"key": key, "op": op, "value": value}


def nested(depth: int, inner: object) -> object:
    for level in range(depth):
        inner = {"and" if level % 2 else "or": [inner]}
    return inner


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (term(), Comparison("path", "eq", "a")),
        (term("path", "prefix", "docs/%_\\"), Comparison("path", "prefix", "docs/%_\\")),
        (term("content_type", "in", ["text/html"]), Comparison("content_type", "in", ("text/html",))),
        (term("source", "nin", []), Comparison("source", "nin", ())),
        (term("year", "gte", 2020), Comparison("year", "gte", 2020)),
        (term("a.b-c_9", "lt", 1.5), Comparison("a.b-c_9", "lt", 1.5)),
        (term("draft", "ne", True), Comparison("draft", "ne", True)),
        (term("x", "in", [1, "1", True, 1.5]), Comparison("x", "in", (1, "1", True, 1.5))),
        ({"and": []}, Junction("and", ())),
        ({"or": []}, Junction("or", ())),
        (
            {"or": [term(), {"and": [term("k", "gt", "b")]}]},
            Junction("or", (Comparison("path", "eq", "a"), Junction("and", (Comparison("k", "gt", "b"),)))),
        ),
    ],
)
def test_what_is_in_the_grammar(value, expected):
    """Each form of the grammar becomes the filter it stands for."""
    assert parse_filter(value) == expected


def test_types_of_values_are_kept():
    """`true`, 1 and 1.0 are three values: a metadata field tells them apart."""
    kinds = [type(parse_filter(term("flag", "eq", value)).value) for value in (True, 1, 1.0, "1")]
    assert kinds == [bool, int, float, str]
    listed = parse_filter(term("flag", "in", [True, 1, 1.0])).value
    assert [type(value) for value in listed] == [bool, int, float]


REFUSED = [
    (None, "filter"),
    ([], "filter"),
    ("path", "filter"),
    (7, "filter"),
    ({}, "filter"),
    ({"and": [term()], "or": []}, "filter"),
    ({"not": [term()]}, "filter"),
    ({**term(), "boost": 2}, "filter"),
    ({"key": "path", "op": "eq"}, "filter"),
    ({"and": term()}, "filter.and"),
    ({"and": "x"}, "filter.and"),
    ({"and": [term(), None]}, "filter.and[1]"),
    ({"or": [{"and": [term(), term(op="like")]}]}, "filter.or[0].and[1].op"),
    (term(key="pa'th"), "filter.key"),
    (term(key='x"'), "filter.key"),
    (term(key="x --"), "filter.key"),
    (term(key="__proto__"), "filter.key"),
    (term(key="$.a"), "filter.key"),
    (term(key="a[0]"), "filter.key"),
    (term(key=".a"), "filter.key"),
    (term(key="1a"), "filter.key"),
    (term(key="é"), "filter.key"),
    (term(key="a" * 65), "filter.key"),
    (term(key="a\n"), "filter.key"),
    (term(key=""), "filter.key"),
    (term(key=None), "filter.key"),
    (term(key=["path"]), "filter.key"),
    *((term(key=key), "filter.key") for key in ("tenant", "owner", "allow", "collection", "Tenant", "OWNER", "and")),
    (term(op="EQ"), "filter.op"),
    (term(op="like"), "filter.op"),
    (term(op=["eq"]), "filter.op"),
    (term(op=None), "filter.op"),
    (term(value=7), "filter.value"),
    (term(value=True), "filter.value"),
    (term(value=None), "filter.value"),
    (term(value={}), "filter.value"),
    (term(value=["a"]), "filter.value"),
    (term("source", "in", ["a", 7]), "filter.value[1]"),
    (term("x", "in", "a"), "filter.value"),
    (term("x", "nin", {"a": 1}), "filter.value"),
    (term("x", "in", [["a"]]), "filter.value[0]"),
    (term("x", "in", [None]), "filter.value[0]"),
    (term("x", "prefix", 7), "filter.value"),
    (term("x", "gt", True), "filter.value"),
    (term("x", "eq", float("nan")), "filter.value"),
    (term("x", "lt", float("inf")), "filter.value"),
    (term("x", "in", [1, float("-inf")]), "filter.value[1]"),
    (term("x", "eq", 2**63), "filter.value"),
    (term("x", "eq", -(2**63) - 1), "filter.value"),
    (term("x", "eq", "a" * 4_097), "filter.value"),
    (term("x", "eq", "\ud800"), "filter.value"),
    (term("path", "eq", "a\0b"), "filter.value"),
    (term("x", "in", ["a"] * (MAX_LIST + 1)), "filter.value"),
    (term("modified_at", "prefix", "2026"), "filter.op"),
    (term("modified_at", "gt", 1_700_000_000), "filter.value"),
    (term("modified_at", "in", ["2026-01-01", "yesterday"]), "filter.value[1]"),
]


@pytest.mark.parametrize(("value", "place"), REFUSED, ids=repr)
def test_what_is_not_in_the_grammar(value, place):
    """Everything else is an InvalidQuery that begins with the place of the fault."""
    with pytest.raises(InvalidQuery) as caught:
        parse_filter(value)
    assert str(caught.value).startswith(place + ":")
    assert len(str(caught.value)) < 300


def test_as_deep_as_allowed_and_no_deeper():
    """Five levels of and/or are parsed, six are refused, and so are very many, without a deep recursion."""
    assert parse_filter(nested(MAX_DEPTH, term()))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(InvalidQuery, match="levels"):
            parse_filter(nested(depth, term()))


def test_as_many_terms_as_allowed_and_no_more():
    """Fifty terms are parsed, however they are grouped; one more is refused, be it only an empty group."""
    half = {"and": [term()] * (MAX_TERMS // 2)}
    assert parse_filter({"or": [half, half]})
    for extra in (term(), {"and": []}, {"or": []}):
        with pytest.raises(InvalidQuery, match="at most 50 terms"):
            parse_filter({"or": [half, half, extra]})
    with pytest.raises(InvalidQuery, match="at most 50 terms"):
        parse_filter({"or": [{"and": []}] * 51})


def test_lists_as_long_as_allowed():
    """A list of 1,000 values is parsed whole."""
    assert len(parse_filter(term("x", "in", list(range(MAX_LIST)))).value) == MAX_LIST


def nanoseconds(text: str) -> int:
    return parse_filter(term("modified_at", "gte", text)).value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 10**9),
        ("1970-01-01 00:00:01Z", 10**9),
        ("1969-12-31T23:59:59Z", -(10**9)),
        ("1970-01-01T14:00:00+14:00", 0),
        ("1969-12-31T12:00:00-12:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T00:00:00.5Z", 5 * 10**8),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2016-12-31T23:59:60Z", 1_483_228_800 * 10**9),
        ("2017-01-01T08:59:60+09:00", 1_483_228_800 * 10**9),
        ("2024-02-29", 1_709_164_800 * 10**9),
        ("0001-01-01T00:00:00+14:00", -(2**63)),
        ("9999-12-31T23:59:59-14:00", 2**63 - 1),
    ],
)
def test_times_become_nanoseconds(text, expected):
    """Dates and date-times of any offset become UTC nanoseconds; those beyond 64 bits stay at the end."""
    assert nanoseconds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026", "2026-1-1", "20260101", "2026-W01-1", "0000-01-01", "2026-00-10", "2026-13-01", "2026-02-29",
        "2026-01-32", "10000-01-01", "2026-01-01T", "2026-01-01T10:00Z", "2026-01-01T10:00:00", "2026-01-01T24:00:00Z",
        "2026-01-01T10:60:00Z", "2026-01-01T10:00:61Z", "2026-01-01T10:00:60Z", "2026-01-01T10:00:00.Z",
        "2026-01-01T10:00:00+0100",
        "2026-01-01T10:00:00.1234567890Z", "2026-01-01T10:00:00+24:00", "2026-01-01T10:00:00+01:60", "2026-01-01 ",
        "２０２６-01-01", "2026-01-01T10:00:00Z\n", "2016-12-31T23:59:60+01:00",
    ],
)  # fmt: skip
def test_what_is_no_time(text):
    """Other notations, days that do not exist and leap seconds inside a day are refused."""
    with pytest.raises(InvalidQuery, match=r"^filter\.value: "):
        nanoseconds(text)


@given(
    moment=st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001
    offset=st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_times_agree_with_the_standard_library(moment, offset):
    """Whatever moment is written in whatever offset, its nanoseconds are those of Python's datetime."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    expected = (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1_000
    assert nanoseconds(aware.isoformat()) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(OPERATORS)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["key", "op", "value", "and", "or", "x"]), inner, max_size=4)
        | st.fixed_dictionaries(
            {"key": st.sampled_from(["path", "modified_at", "n"]) | inner, "op": inner, "value": inner}
        )
    ),
    max_leaves=20,
)


@given(value=JSON)
def test_any_json_is_a_filter_or_an_invalid_query(value):
    """No JSON value makes the parser fail in another way, and what it takes, it takes again from its own JSON."""
    try:
        parsed = parse_filter(value)
    except InvalidQuery:
        return
    assert parse_filter(json.loads(json.dumps(value))) == parsed
