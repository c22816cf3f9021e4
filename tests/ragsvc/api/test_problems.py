"""Every error has its status, code and words, and nothing of the inside gets out."""

import http
from collections.abc import Iterator

import pytest
from litestar import exceptions

import indexes.errors
import ingest.errors
import ragsvc.api.errors
import ragsvc.errors
from ragsvc.api.problems import INTERNAL, problem_of, retry_after, shown
from tests.ragsvc.api.conftest import serving

BUGS = {
    indexes.errors.IndexesError,  # roots are never raised
    indexes.errors.InvalidVectors,  # vectors are ours
    ingest.errors.IngestError,
    ragsvc.errors.RagsvcError,
    ragsvc.errors.ConfigurationError,  # found before the service starts
    ragsvc.api.errors.ApiError,
}
SECRET = "/srv/secret sk-123"


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from below(child)


ROOTS = (indexes.errors.IndexesError, ingest.errors.IngestError, ragsvc.errors.RagsvcError)
ALL = sorted({kind for root in ROOTS for kind in below(root)}, key=lambda kind: (kind.__module__, kind.__name__))


def made(kind: type[Exception]) -> Exception:
    return kind("encoding", SECRET) if kind is ingest.errors.Rejected else kind(SECRET)


def test_the_walk_finds_all_trees():
    """The walk reaches all three trees, those of this floor included, so that the tests below see every class."""
    assert len(ALL) > 40
    assert {ragsvc.api.errors.ClientLeft, ingest.errors.Rejected, indexes.errors.StorageFull} <= set(ALL)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_a_mapping(kind):
    """Each class of the three trees has a status of its own, and only those that mean a bug are 500."""
    problem, headers = problem_of(made(kind), "r1")
    assert (problem.status == 500) == (kind in BUGS)
    assert 400 <= problem.status < 600
    assert problem.code
    assert problem.detail
    assert (problem.status == 503) == ("retry-after" in headers)
    assert problem.title == (
        "Client Closed Request" if problem.status == 499 else http.HTTPStatus(problem.status).phrase
    )


OWN_WORDS = (
    indexes.errors.InvalidQuery,
    indexes.errors.Conflict,
    indexes.errors.SpecMismatch,
    ingest.errors.TooManyRemovals,
    ingest.errors.SettingsError,
    ingest.errors.Rejected,
    ingest.errors.NotGiven,
    ragsvc.errors.UnknownCollection,
    ragsvc.errors.CollectionExists,
    ragsvc.errors.CollectionBusy,
    ragsvc.errors.BadRequest,
    ragsvc.errors.UnknownJob,
    ragsvc.errors.JobFinished,
    ragsvc.errors.BudgetRefused,
    ragsvc.errors.Overloaded,
    ragsvc.errors.EmbeddingUnavailable,
    ragsvc.errors.Interrupted,
)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_only_the_callers_own_errors_tell_their_message(kind):
    """Messages that may name paths, hosts or an upstream's words stay inside."""
    problem, _ = problem_of(made(kind), "r1")
    tells = kind in OWN_WORDS or (kind.__module__ == "ragsvc.api.errors" and kind not in BUGS)
    assert (SECRET in problem.detail) == tells


def test_codes_are_the_contracts():
    """The codes that the contract names are those that are sent."""
    assert shown(indexes.errors.VersionGone("")).code == "changed"
    assert shown(indexes.errors.VersionGone("")).status == 409
    assert shown(ragsvc.errors.EmbeddingUnavailable("")).code == "embedding_unavailable"
    assert shown(ingest.errors.Rejected("password")).code == "password"
    assert shown(ingest.errors.Rejected("password")).status == 422


def test_a_subclass_is_shown_like_its_base():
    """A class that nobody has named yet is shown like the nearest base that is."""

    class DiskGone(indexes.errors.StorageFull):
        pass

    class Odd(ragsvc.errors.BadRequest):
        code = "odd"

    assert shown(DiskGone("")).code == "storage_full"
    assert (shown(Odd("")).status, shown(Odd("")).code) == (400, "odd")


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(0.2, 1), (6.2, 7), (1e9, 3600), (None, 1), (0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1)],
)
def test_retry_after_is_whole_seconds_within_an_hour(told, seconds):
    """Whatever an upstream asked for, the header has 1 to 3,600 whole seconds."""
    assert retry_after(ragsvc.errors.RateLimited("", retry_after=told)) == seconds


def test_what_only_an_operator_can_mend_is_asked_for_rarely():
    """An exhausted quota or a full disk is not tried again after a second."""
    for error in (
        ragsvc.errors.QuotaExhausted(""),
        indexes.errors.StorageFull(""),
        ragsvc.errors.AuthenticationFailed(""),
    ):
        assert retry_after(error) == 60


FRAMEWORK = [exceptions.ClientException, exceptions.NotAuthorizedException, exceptions.PermissionDeniedException,
             exceptions.NotFoundException, exceptions.MethodNotAllowedException, exceptions.TooManyRequestsException,
             exceptions.InternalServerException, exceptions.ServiceUnavailableException, exceptions.ValidationException,
             exceptions.ImproperlyConfiguredException]  # fmt: skip


@pytest.mark.parametrize("kind", FRAMEWORK, ids=lambda kind: kind.__name__)
def test_the_frameworks_errors_are_problems(kind):
    """Each of the framework's errors keeps its status below 500, and is a bug of ours from there on."""
    error = kind(detail="because")
    status = min(error.status_code, 500)
    assert shown(error).status == status
    assert status < 500 or shown(error) is INTERNAL


def test_a_bug_is_500_and_its_stack_is_in_the_log(capfd):
    """An unforeseen exception is a problem without internals; the log has its stack under the same request id."""
    with serving() as server:
        server.shelf.library.failure = ZeroDivisionError("token sk-secret")
        reply = server.get("/documents", X_Request_Id="bug-1")
        assert (reply.status, reply.json["code"], reply.json["request_id"]) == (500, "internal", "bug-1")
        assert b"sk-secret" not in reply.body
        assert b"ZeroDivision" not in reply.body
    said = capfd.readouterr().out
    assert "ZeroDivisionError" in said
    assert "bug-1" in said
