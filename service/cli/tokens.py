"""Commands that say who may do what. They open the installation's database and need no service."""

from __future__ import annotations

import getpass
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from scoring.errors import InputError
from service.access.roles import Role
from service.cli.afterwards import installation
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config

if TYPE_CHECKING:
    from service.db.access import TokenRecord
    from service.db.store import Store

app = typer.Typer(no_args_is_help=True, help="Tokens: who may do what over the network.")
_UNITS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,79}")


@app.command("create")
def create(
    role: Annotated[Role, typer.Option(help="viewer reads; submitter also submits and changes; admin all.")],
    name: Annotated[str, typer.Option(help="Whose it is; the audit calls its owner so.")],
    expires: Annotated[
        str | None, typer.Option(metavar="90d", help="After how many hours, days or weeks: 12h, 90d, 8w.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept."""
    if not _NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: give 1 to 80 letters, digits, spaces and . _ @ -")
    expires_at = None if expires is None else time.time() + _seconds(expires)
    with installation(config) as (_, store):
        made, secret = store.create_token(name, role, expires_at)
        _audit(store, f"token create {made.id} ({name}, {role.value})")
    if as_json:
        print_json({"token": secret.text, "made": made.model_dump(mode="json")})
    else:
        typer.echo(secret.text)
        typer.echo("keep it: it is not shown again (AUTOMBW_TOKEN, or the page's login)", err=True)


@app.command("list")
def list_tokens(config: Config = None, as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    with installation(config) as (_, store):
        found = store.tokens()
    if as_json:
        print_json([token.model_dump(mode="json") for token in found])
        return
    table = Table("token", "name", "role", "made", "state", box=None)
    for token in found:
        table.add_row(
            token.id, token.name, token.role.value, f"{token.created_at:%Y-%m-%d %H:%M}", _state(token)
        )
    console.print(table if found else "no tokens yet; make one with: autombw token create")


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name, or its id as `list` shows it.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """End a token and every login with it; a running service follows within a second."""
    with installation(config) as (_, store):
        ended = store.revoke_token(token)
        _audit(store, f"token revoke {ended.id} ({ended.name})")
    if as_json:
        print_json(ended.model_dump(mode="json"))
    else:
        console.print(f"token {ended.id} of {ended.name} is revoked", highlight=False, markup=False)


def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 50,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what, and who was refused."""
    with installation(config) as (_, store):
        found = store.audit_entries(limit=limit)
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in found])
        return
    table = Table("when (UTC)", "who", "from", "what", "answer", box=None)
    for entry in found:
        status = "" if entry.status is None else str(entry.status)
        when = f"{entry.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            when, *(_plain(text) for text in (entry.actor, entry.address or "", entry.action)), status
        )
    console.print(table if found else "nothing was changed yet")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if found is None or not int(found[1]):
        raise InputError(f"--expires {text!r}: give a number of hours, days or weeks, such as 12h, 90d or 8w")
    return int(found[1]) * _UNITS[found[2]]


def _state(token: TokenRecord) -> str:
    if token.revoked_at is not None:
        return f"revoked {token.revoked_at:%Y-%m-%d}"
    if token.expires_at is None:
        return "valid"
    over = token.expires_at.timestamp() <= time.time()
    return f"{'expired' if over else 'until'} {token.expires_at:%Y-%m-%d %H:%M}"


def _audit(store: Store, action: str) -> None:
    from service.db.access import Deed

    store.audit(Deed(f"{_user()} on the command line", action))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _plain(text: str) -> str:
    """Text that a stranger may have chosen, without what a terminal or rich would act on."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
