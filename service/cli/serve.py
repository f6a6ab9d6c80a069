"""`autombw serve`: the API in this process, workers in children that are restarted when they die."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scoring.errors import InputError
from service.cli.setup import Config
from service.logs import configure_logging
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.db.store import Store

log = logging.getLogger(__name__)
RESTART_SECONDS = 1.0
STOP_SECONDS = 12.0


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
    settings = load_settings(config, **given)
    configure_logging(settings)
    listener = _listen(settings)
    from service.api.app import create_app
    from service.api.serving import server_of

    app = create_app(settings)
    check_bind(settings, app.state.context.store)
    server = server_of(app)
    _leave_alone_what_stays()
    shown_host, shown_port = listener.getsockname()[:2]
    typer.echo(f"autombw listens on http://{shown_host}:{shown_port} (data in {settings.data_dir})")
    children = [WorkerProcess(config, device_of(settings, number)) for number in range(workers)]
    # uvicorn raises the signal again once it has shut down; by default that would skip the worker's end.
    signal.signal(signal.SIGTERM, _leave)
    try:
        server.run(sockets=[listener])
    finally:
        for child in children:
            child.tell_to_stop()
        for child in children:
            child.wait()


def _leave_alone_what_stays() -> None:
    """Let the garbage collector pass over all that was imported and made so far: 670,000 objects.

    It would look at all of them again and again, for a third of a second in which nothing is answered.
    """
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


class WorkerProcess:
    """A worker in a process of its own, started again whenever it ends by itself."""

    def __init__(self, config: Path | None, device: str) -> None:
        self._environment = os.environ | {"AUTOMBW_DEVICE": device}
        self._command = [sys.executable, "-m", "service.cli", "worker", "--parent", str(os.getpid())]
        self._command += ["--settings", str(config)] if config else []
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def tell_to_stop(self) -> None:
        """Ask it to hand its node back and end."""
        self._stopping.set()
        self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended; it is killed when it does not."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    def _start(self) -> subprocess.Popen[Any]:
        # A session of its own: Ctrl-C reaches the worker through `stop`, once.
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def _watch(self) -> None:
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.wait(RESTART_SECONDS):
                return
            log.error("the worker ended with %d; starting another", code)
            self._process = self._start()


def device_of(settings: Settings, number: int) -> str:
    """The device of a worker: the configured one, or with `auto` and several GPUs one after the other."""
    import torch

    if settings.device != "auto" or torch.cuda.device_count() < 2:
        return settings.device
    return f"cuda:{number % torch.cuda.device_count()}"


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
