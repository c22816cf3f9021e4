"""One line an event, ours and the libraries', with the request's id."""

import io
import json
import logging

import pytest
import structlog

from ragsvc.logs import configure_logs


@pytest.fixture
def restored():
    """Put logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.getLogger("uvicorn.access").disabled = False
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_lines_are_json_with_the_request_id(restored):
    """Ours and a library's line are JSON objects with time, level, logger, event and the bound request id."""
    out = io.StringIO()
    configure_logs("json", stream=out)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.stdlib.get_logger("ragsvc.api").info("request", status=200)
        logging.getLogger("indexes").warning("segment %s rebuilt", "s1", extra={"rows": 3})
    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["status"], ours["level"], ours["logger"]) == ("request", 200, "info", "ragsvc.api")
    assert (theirs["event"], theirs["rows"], theirs["level"]) == ("segment s1 rebuilt", 3, "warning")
    assert ours["request_id"] == theirs["request_id"] == "r1"
    assert ours["timestamp"].endswith("Z")


def test_an_error_keeps_its_stack_on_one_line(restored):
    """A stack is part of its line, without the values of variables, in both formats and from both worlds."""
    for log_format in ("json", "console"):
        out = io.StringIO()
        configure_logs(log_format, stream=out)
        private = "private value"
        try:
            raise KeyError(len(private))
        except KeyError as error:
            structlog.stdlib.get_logger("a").error("broken", exc_info=error)
            logging.getLogger("b").exception("broken too")
        said = out.getvalue()
        assert said.count("Traceback (most recent call last)") == 2
        assert "private value" not in said.replace('private = "private value"', "")
        assert log_format == "console" or all(json.loads(line) for line in said.splitlines())


def test_a_person_gets_text_and_a_file_gets_json(restored):
    """Without a choice a terminal is written to for eyes, anything else for machines."""
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        configure_logs(stream=out)
        structlog.stdlib.get_logger("x").info("hello", n=1)
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert json.loads(file.getvalue())["n"] == 1


def test_noise_and_doubles_are_left_out(restored):
    """Debug lines, the HTTP clients' and the server's own request lines do not appear; configuring twice is once."""
    out = io.StringIO()
    configure_logs("json", stream=io.StringIO())
    configure_logs("json", stream=out)
    structlog.stdlib.get_logger("x").debug("no")
    logging.getLogger("httpx").info("GET http://upstream no")
    logging.getLogger("uvicorn.access").info("GET /?q=private no")
    logging.getLogger("uvicorn.error").info("Started")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["Started"]
