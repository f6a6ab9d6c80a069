"""The HTTP side of the commands: which service, with which token, and how its errors end a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from service.cli.output import fail
from service.client import ApiError, Client, ClientError, ServiceFailed

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        "--server",
        envvar=["AUTOMBW_URL", "AUTOMBW_SERVER"],
        help="Where `autombw serve` listens; http://127.0.0.1:8188 if not given.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="AUTOMBW_TOKEN", help="A token of that service; better given by AUTOMBW_TOKEN."),
]
RETRIES = 2


@contextmanager
def connected(url: str | None, token: str | None) -> Iterator[Client]:
    """A client of a service. What it reports ends the command with its words."""
    try:
        with Client(url, token, retries=RETRIES) as client:
            yield client
    except ApiError as error:
        fail(str(error), 1 if isinstance(error, ServiceFailed) else 2)
    except ClientError as error:
        fail(str(error), 1)
