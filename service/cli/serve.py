"""`autombw serve`: the API in this process, workers in children that are restarted when they die."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from scoring.errors import InputError
from service.cli.setup import Config
from service.cli.worker_processes import WorkerProcesses
from service.garbage import ShortPauses
from service.heap import share_heaps
from service.logs import configure_logging
from service.processes import leave_on_signals
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.db.store import Store


def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Workers beside the API; with several GPUs each takes the next one.")
    ] = 1,
) -> None:
    """Run the API and its workers; SQLite in the data folder, nothing to configure."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    share_heaps()
    settings = load_settings(config, **given)
    configure_logging(settings)
    # uvicorn puts handlers of its own in their place, and raises the signal again once it has shut down.
    leave_on_signals()
    listener = _listen(settings)
    from service.api.app import create_app
    from service.api.serving import server_of

    app = create_app(settings)
    check_bind(settings, app.state.context.store)
    processes = WorkerProcesses(config, settings, workers)
    server = server_of(app, processes.tell_to_stop)
    ShortPauses().begin()
    shown_host, shown_port = listener.getsockname()[:2]
    typer.echo(f"autombw listens on http://{shown_host}:{shown_port} (data in {settings.data_dir})")
    try:
        server.run(sockets=[listener])
    finally:
        processes.tell_to_stop()
        processes.wait()


def check_bind(settings: Settings, store: Store) -> None:
    """Raise InputError where others than this machine would be served and there is no token for them."""
    from service.access.identity import is_loopback

    if is_loopback(settings.host):
        return
    now = time.time()
    if not any(
        token.revoked_at is None and (token.expires_at is None or token.expires_at.timestamp() > now)
        for token in store.tokens()
    ):
        raise InputError(
            f"--host {settings.host} is reached from the network, and there is no token to let anybody in; "
            "make one first: autombw token create --role admin --name NAME"
        )


def _listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises InputError when the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "another service may run there already: stop it or give another --port"
        ) from error
    return listener
