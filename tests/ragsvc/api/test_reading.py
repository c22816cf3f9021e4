"""Reading never fails but with a BadRequest, whatever the bytes; and preferring a content type is total."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragsvc.api.accept import preferred
from ragsvc.api.reading import convert_query, decode
from ragsvc.api.schemas import AskRequest, DocumentsQuery, SearchRequest, TextQuery, question_of
from ragsvc.errors import BadRequest

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["question", "k", "collection", "filter", "history", "stream", "response_format", "x"])


def read(body: bytes, shape):
    """Return what was read, or None where it was refused as it should be."""
    try:
        return decode(body, shape)
    except BadRequest:
        return None


@given(st.binary(max_size=200))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_read_or_refused(body):
    """No bytes raise anything but BadRequest."""
    read(body, AskRequest)


@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=5))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_object_is_read_or_refused(value):
    """No JSON object raises anything but BadRequest; what is read holds the limits."""
    body = read(json.dumps(value).encode("utf-8", "surrogatepass"), AskRequest)
    if body is not None:
        assert 1 <= body.k <= 50
        assert 1 <= len(body.question) <= 4000
        assert len(body.history) <= 20
        assert body.question == value["question"]


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_request_is_read_or_refused(tail, at, byte):
    """A good body with one byte changed and a tail after it raises nothing but BadRequest."""
    good = bytearray(
        b'{"query": "caf\xc3\xa9 \\ud83d\\ude00", "k": 5, "filter": {"key": "path", "op": "eq", "value": 1.5}}'
    )
    good[at % len(good)] = byte
    read(bytes(good), SearchRequest)
    read(bytes(good) + tail, SearchRequest)


@given(st.lists(st.tuples(st.sampled_from(["limit", "after", "source", "start", "end", "x"]), st.text()), max_size=4))
def test_any_parameters_are_read_or_refused(pairs):
    """No decoded query string raises anything but BadRequest, and what is read was given."""
    for shape in (DocumentsQuery, TextQuery):
        try:
            found = convert_query(pairs, shape)
        except BadRequest:
            continue
        for name, value in pairs:
            kept = getattr(found, name)
            assert kept == (int(value) if isinstance(kept, int) else value)


def test_a_text_parameter_of_digits_stays_text():
    """Only parameters that are integers are made integers."""
    assert convert_query([("after", "12"), ("limit", "012")], DocumentsQuery) == DocumentsQuery(after="12", limit=12)


@pytest.mark.parametrize("depth", [10, 100, 900, 1100, 20_000])
def test_depth_is_read_or_refused(depth):
    """At any depth around the interpreter's limit an object is read whole or refused."""
    body = b'{"question": "a?", "filter": {"and": %s1%s}}' % (b"[" * depth, b"]" * depth)
    assert read(body, AskRequest) is not None or depth > 500


def test_a_question_is_kept_as_written():
    """Spaces around a question are the person's; they are not cut."""
    assert question_of(AskRequest(question="  why? ")).text == "  why? "


OFFERS = ("application/json", "text/event-stream", "text/html")


@given(
    st.text(max_size=80) | st.lists(st.sampled_from([*OFFERS, "*/*", "text/*", ";q=0.5", ";q=nan", ","])).map("".join)
)
def test_some_offer_is_always_preferred(accept):
    """Any header, however odd, leads to one of the offers."""
    assert preferred(accept, OFFERS) in OFFERS


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("text/*", "text/event-stream"),
        ("text/html, application/json", "text/html"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/html;q=0, */*", "application/json"),
        ("application/json;q=0, */*", "text/event-stream"),
        ("TEXT/HTML", "text/html"),
        ("text/html;q=5, application/json;q=0.1", "application/json"),
        ("text/html;q=nan, text/event-stream;q=0.1", "text/event-stream"),
    ],
)
def test_preferences_follow_quality_then_order(accept, expected):
    """Quality goes before the header's order, a named type before a wildcard, and q=0 means no."""
    assert preferred(accept, OFFERS) == expected
