"""Multipart forms, taken apart the same way however they come in."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc.api.errors import BodyTooLarge, UnsupportedMediaType
from ragsvc.api.form import Begin, End, Form, boundary_of
from ragsvc.errors import BadRequest
from tests.ragsvc.api.rooms import BOUNDARY, form

NAMES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters='"\\%'), min_size=1, max_size=20)
DATA = st.one_of(
    st.binary(max_size=200), st.sampled_from([b"\r\n", b"--", f"\r\n--{BOUNDARY[:-1]}".encode(), b"\r" * 40])
)


def taken(body: bytes, cuts: list[int]) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Feed a body in pieces; return its documents and fields."""
    parser, files = Form(BOUNDARY), []
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(edges):
        for event in parser.feed(body[start:end]):
            if isinstance(event, Begin):
                files.append((event.name, b""))
            elif not isinstance(event, End):
                files[-1] = (files[-1][0], files[-1][1] + event)
    parser.close()
    return files, parser.fields


@given(
    files=st.lists(st.tuples(NAMES, DATA), min_size=1, max_size=5),
    fields=st.dictionaries(st.sampled_from(["collection", "metadata"]), st.text(max_size=30)),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_a_form_is_the_same_however_it_is_cut(files, fields, cuts):
    """Names, bytes and fields come out as they went in, wherever the body is cut into pieces."""
    assert taken(form(files, fields), cuts) == (files, fields)


@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5), known=st.booleans())
def test_anything_else_is_a_clear_refusal(body, cuts, known):
    """Any bytes are taken apart or refused; no other error comes out."""
    start = form([("a", b"b")])[: len(body)] if known else b""
    with contextlib.suppress(BadRequest, BodyTooLarge):
        taken(start + body, cuts)


def test_a_form_may_end_with_white_space():
    """What stands behind the last boundary is ignored, in a piece of its own as well."""
    body = form([("a", b"b")])
    assert taken(body + b"\r\n\r\n", [len(body)])[0] == [("a", b"b")]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json; charset=utf-8", "multipart", "nonsense;;;"])
def test_other_bodies_have_no_boundary(kind):
    """A content type that is no form's is a raw body's."""
    assert boundary_of(kind) is None


def test_boundaries_are_read_as_they_are_sent():
    """Quoted or not; a form without one, and another multipart type, are refused."""
    assert boundary_of("multipart/form-data; boundary=abc") == "abc"
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == "a b"
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=é"):
        with pytest.raises(BadRequest):
            boundary_of(kind)
    with pytest.raises(UnsupportedMediaType):
        boundary_of("multipart/related; boundary=abc")
