"""optuna-dashboard on the study of a merge: a copy to look at, on this machine's loopback alone."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from optimizer.formats.optuna_study import add_trials, create_study, search_trials, storage_url
from optimizer.formats.trials_table import TrialRow, TrialTable
from scoring.errors import InputError
from service.access.identity import is_loopback
from service.access.origins import host_name
from service.errors import NotFound

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
FOLLOW_SECONDS = 3.0
StartResponse = Callable[..., Any]


class StudyView:
    """A WSGI application: optuna-dashboard on the newest state of a table of trials.

    read: the table as it is now. folder: for the files of the study; who made it removes them. Raises what
    `read` raises, and InputError when no search trial has ended.
    """

    def __init__(self, read: Callable[[], TrialTable], folder: Path) -> None:
        self._read, self._folder = read, folder
        self._numbers = itertools.count()
        self._trials: list[TrialRow] = []
        self._show(read())

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        refusal = _refusal(environ)
        if refusal is None:
            shown: Iterable[bytes] = self._dashboard(environ, start_response)
            return shown
        start_response(refusal, [("Content-Type", "text/plain")])
        return [refusal.encode()]

    def refresh(self) -> None:
        """Show what has changed since."""
        table = self._read()
        trials = search_trials(table)
        known = len(self._trials)
        if trials == self._trials:
            return
        if trials[:known] == self._trials and table.blocks == self._blocks:
            add_trials(self._storage, table, trials[known:])
            self._trials = trials
        else:
            # Votes move the scores of trials that ended, and Optuna changes no such trial: a new study.
            self._show(table)

    def follow(self, stop: threading.Event) -> None:
        """Refresh every few seconds until `stop` is set."""
        while not stop.wait(FOLLOW_SECONDS):
            try:
                self.refresh()
            except (SQLAlchemyError, NotFound) as error:
                log.warning("the study stays as it was: %s", error)

    def _show(self, table: TrialTable) -> None:
        storage = RDBStorage(storage_url(self._folder / f"study-{next(self._numbers)}.db"))
        self.name = create_study(storage, table)
        self._storage, self._blocks = storage, table.blocks
        self._trials = search_trials(table)
        self._dashboard = optuna_dashboard.wsgi(storage)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def server_of(view: StudyView, port: int) -> WSGIServer:
    """A server for a view, on loopback; port 0 is any that is free. Raises InputError when it is taken."""
    try:
        return make_server(HOST, port, view, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise InputError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}; give another --port"
        ) from error


def _refusal(environ: dict[str, Any]) -> str | None:
    """optuna-dashboard lets everybody do anything, also another site's page through a browser."""
    if not is_loopback(host_name(environ.get("HTTP_HOST", ""))):
        return "403 Call it localhost"
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return "403 A copy to look at"
    return None
