"""OpenAI's failures in the words of `ragsvc.errors`: status, `code` and `type` decide, never the exception's class.

Pure: what the SDK raises is taken apart in `ragsvc.providers.openai`. Messages name the server and what to do; never
the key, and of the server's own message nothing but two known phrases, because servers quote requests in them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from ragsvc.errors import (
    AuthenticationFailed,
    EndpointMissing,
    ModelNotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamFailed,
    UpstreamMalformed,
)
from ragsvc.types import Role

QUOTA_WORDS = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
"""Values of `code` or `type` of a 429 that waiting does not heal. Older answers set only `type`."""

_MODEL_WORDS = frozenset({"model_not_found", "deploymentnotfound"})
_NO_SUCH_MODEL = re.compile(r"\bmodel\b.{0,200}(?:not found|does not exist|not exist)", re.IGNORECASE | re.DOTALL)
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\-\[\]]{1,64}")
_PHRASES = re.compile(r"maximum context length is \d+ tokens|max \d+ tokens per request", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked of whom."""

    role: Role
    host: str
    model: str

    @property
    def setting(self) -> str:
        """Start of the names of the role's settings."""
        return f"RAGSVC_{self.role.upper()}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer: its status (None for an error inside a stream), error object and headers."""

    status: int | None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str | None:
        """The server's own word for it."""
        return next((word for word in (self.code, self.type) if word and _IDENTIFIER.fullmatch(word)), None)


def from_refusal(refusal: Refusal, call: Call, now: float) -> ProviderError:
    """Return the error of an answer that is not 2xx. `now` in seconds since the epoch, for dates in `Retry-After`."""
    kind, text = _classify(refusal, call)
    said = ", ".join(str(part) for part in (refusal.status, refusal.word) if part is not None)
    return kind(
        f"{text} ({said})" if said else text,
        retry_after=retry_after(refusal.headers, now),
        upstream_code=refusal.word,
    )


def _classify(refusal: Refusal, call: Call) -> tuple[type[ProviderError], str]:
    status, host = refusal.status, call.host
    words = {word.lower() for word in (refusal.code, refusal.type) if word}
    limited = status == 429 or (status is None and words & {"rate_limit_exceeded", "slow_down"})
    if status == 402 or ((limited or status is None) and words & QUOTA_WORDS):
        return QuotaExhausted, f"the account at {host} is out of quota; check its plan, billing and limits, then repeat"
    if limited:
        return RateLimited, f"{host} limits the rate of {call.role} requests; wait and repeat, or send fewer at once"
    if status in (401, 403):
        return AuthenticationFailed, f"{host} does not let this key use {call.model}; check OPENAI_API_KEY"
    if _names_model(refusal, words):
        return ModelNotFound, f"{host} has no model {call.model}; set {call.setting}_MODEL to one that it has"
    if status in (404, 405, 501):
        other = (
            f"set {call.setting}_BASE_URL (it ends in /v1) to a server that has it, or {call.setting}_PROVIDER=local"
        )
        return EndpointMissing, f"{host} has no endpoint for {call.role}; {other}"
    if status in (408, 409) or (status or 0) >= 500 or "server_error" in words:
        return UpstreamFailed, f"{host} failed; repeat in a while"
    if status is not None and status >= 400:
        return RequestRefused, f"{host} refused the {call.role} request{_detail(refusal)}; change it, or the model"
    return UpstreamMalformed, f"{host} gave an answer that makes no sense; check {call.setting}_BASE_URL"


def _names_model(refusal: Refusal, words: set[str]) -> bool:
    """Whether a 404 (or 400) is about the model: OpenAI and Azure say so in `code`, others only in the message."""
    if refusal.status not in (None, 400, 404):
        return False
    if words & _MODEL_WORDS:
        return True
    return refusal.status == 404 and (refusal.param == "model" or bool(_NO_SUCH_MODEL.search(refusal.message)))


def _detail(refusal: Refusal) -> str:
    parts = [refusal.param] if refusal.param and _IDENTIFIER.fullmatch(refusal.param) else []
    parts += _PHRASES.findall(refusal.message)
    return f": {', '.join(parts)}" if parts else ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds or an HTTP date) asks to wait.

    Nothing, junk, and what lies in the past are None. `headers` has lower-case names.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        if (given := headers.get(name)) is not None and (seconds := _seconds(given, scale, now)) is not None:
            return seconds
    return None


def _seconds(given: str, scale: float, now: float) -> float | None:
    try:
        seconds = float(given) * scale
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
