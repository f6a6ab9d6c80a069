"""`autombw health`: what health checks of containers go by."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.cli.health import health_url
from service.settings import Settings


class Answers(BaseHTTPRequestHandler):
    """A service that is well, or is not."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"the database does not answer")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """It listens where the settings say that the service does."""
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        monkeypatch.setenv("AUTOMBW_PORT", str(server.server_port))
        # Checks of this machine go to no proxy.
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_service_that_is_well(service: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMBW_HOST", "0.0.0.0")
    asked = CliRunner().invoke(app, ["health"])
    assert (asked.exit_code, asked.output) == (0, "well\n")


def test_a_service_that_is_not_well_says_why(service: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "status", 503)
    asked = CliRunner().invoke(app, ["health"])
    assert asked.exit_code == 1
    assert "answers 503: the database does not answer" in asked.output


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMBW_PORT", "1")
    asked = CliRunner().invoke(app, ["health"])
    assert asked.exit_code == 1
    assert "http://127.0.0.1:1/healthz does not answer" in asked.output


@pytest.mark.parametrize(
    ("host", "called"),
    [("::", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("10.0.0.5", "10.0.0.5"), ("fd00::5", "[fd00::5]")],
)
def test_a_service_is_called_by_an_address_of_its_own(host: str, called: str) -> None:
    assert health_url(Settings(host=host, port=99)) == f"http://{called}:99/healthz"
