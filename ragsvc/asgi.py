"""The HTTP entrance: `ragsvc serve`."""

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable

import uvicorn

from ragsvc.api.app import create_app
from ragsvc.compose import House
from ragsvc.errors import ConfigurationError
from ragsvc.logs import configure_logs
from ragsvc.settings import Settings

_GRACE_SECONDS = 30
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What a browser may call us: a page that lets its own name point here (DNS rebinding) is refused."""


def serve(settings: Settings, host: str, port: int, on_start: Callable[[str], None] | None = None) -> int:
    """Serve until interrupted; `on_start` is told the base URL once requests are answered.

    Raises ConfigurationError for an address that can't be bound, or that others could reach.
    """
    check_bind(host)
    configure_logs(settings.log_format)
    house = House(settings)
    house.ready()  # before anyone is listened to: no question waits for a model to be loaded
    listening = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    application = create_app(house.service, hosts={*_LOOPBACK_NAMES, host, f"[{host}]"})
    application.on_shutdown.append(house.aclose)
    config = uvicorn.Config(
        application,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, lambda: (on_start or _say)(url))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        return 130
    finally:
        listening.close()
    return 0 if server.started else 3


def check_bind(host: str) -> None:
    """Raise ConfigurationError for an address that others can reach: without keys anyone could ask and spend."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ConfigurationError(f"the host {host!r} is not known ({error}); use --host 127.0.0.1") from None
    if not all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in addresses):
        raise ConfigurationError(
            f"{host} can be reached by others and no API key protects it: this release serves loopback addresses "
            "only; use --host 127.0.0.1 behind a proxy that authenticates"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port} ({error.strerror}); is another server running there? Use another --port"
        ) from None


def _say(url: str) -> None:
    print(f"ragsvc serves {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)  # noqa: T201


class _Server(uvicorn.Server):
    """Uvicorn, saying when it answers."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await asyncio.to_thread(self._on_start)
