"""Headers and messages of error answers, without a server."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc.errors import ProviderError, RequestRefused
from ragsvc.providers.openai_errors import Call, Refusal, from_refusal, retry_after

NOW = 1_800_000_000.0
CALL = Call("embedding", "host:1", "m")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1"}, 1.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "600"}, 600.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and HTTP dates are read; the past, junk and nothing are None."""
    assert retry_after(headers, NOW) == seconds


@given(st.text())
def test_no_header_breaks_it(given_text: str) -> None:
    """Any header gives None or a finite number above zero."""
    got = retry_after({"retry-after": given_text}, NOW)
    assert got is None or (math.isfinite(got) and got > 0)


@given(
    st.none() | st.integers(100, 599),
    st.none() | st.text(),
    st.none() | st.text(),
    st.none() | st.text(),
    st.text(),
)
def test_no_word_of_the_server_breaks_it(
    status: int | None, code: str | None, kind: str | None, param: str | None, message: str
) -> None:
    """Any status and words give one ProviderError with one line, and never the server's own message."""
    secret = f"<{message}>"
    got = from_refusal(Refusal(status, code, kind, param, f"about {secret}"), CALL, NOW)
    assert isinstance(got, ProviderError)
    assert len(str(got).splitlines()) == 1
    assert secret not in str(got)


def test_what_is_quoted_of_a_server() -> None:
    """The parameter and the two phrases about length are shown, because they tell what to change."""
    long = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (secret)."
    got = from_refusal(Refusal(400, None, "invalid_request_error", None, long), CALL, NOW)
    assert isinstance(got, RequestRefused)
    assert "maximum context length is 8192 tokens" in str(got)
    assert "secret" not in str(got)
    unsupported = Refusal(400, "unsupported_parameter", "invalid_request_error", "max_tokens", "")
    assert "max_tokens" in str(from_refusal(unsupported, CALL, NOW))
    assert from_refusal(unsupported, CALL, NOW).upstream_code == "unsupported_parameter"
