"""Logs: one line an event on stderr, as JSON or for a person's eyes; the library logs of others take the same form.

A request id that is bound by `structlog.contextvars` is on every line of its request. No line of ours carries a
question, a passage, or a key.
"""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

LogFormat = Literal["console", "json"]
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


def configure_logs(
    log_format: LogFormat | None = None, *, level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Send every log line, ours and the libraries', to `stream` (default stderr).

    `log_format` None means `console` on a terminal, else `json`. May be called again; the last call counts.
    """
    out = sys.stderr if stream is None else stream
    chosen = log_format or ("console" if out.isatty() else "json")
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=list(_SHARED), processors=_rendering(chosen, out))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = True  # the access line of ours has the id, and no query string
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _rendering(log_format: LogFormat, out: TextIO) -> list[Processor]:
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "console":
        plain = structlog.dev.plain_traceback  # the others show the values of variables
        return [drop, structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    return [drop, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
