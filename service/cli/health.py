"""The command that asks a service whether it is well."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.output import fail
from service.cli.setup import Config
from service.settings import Settings, load_settings

ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


def health(
    config: Config = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Ask the service of these settings whether it is well: exit code 0, else 1. For containers' checks."""
    import httpx

    url = health_url(load_settings(config))
    try:
        # A proxy of the environment is for what lies outside.
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            answer = client.get(url)
    except httpx.HTTPError as error:
        fail(f"{url} does not answer: {error or type(error).__name__}", 1)
    if answer.status_code != 200:
        fail(f"{url} answers {answer.status_code}: {answer.text[:500]}", 1)
    typer.echo("well")


def health_url(settings: Settings) -> str:
    """Where the service of these settings tells on this machine that it is well."""
    host = ANY.get(settings.host, f"[{settings.host}]" if ":" in settings.host else settings.host)
    return f"http://{host}:{settings.port}/healthz"
