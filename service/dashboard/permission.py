"""Whether who looks at a page may change something: asked by every button that does."""

from __future__ import annotations

from fastapi.concurrency import run_in_threadpool
from nicegui import ui

from service.access.identity import Identity, identity_of
from service.access.roles import Role
from service.dashboard.site import site
from service.db.access import Deed


def asker() -> Identity:
    """Who looks at this page."""
    return identity_of(ui.context.client.request)


def may_change() -> bool:
    """Whether they may submit, pause and cancel; if not, the page says so."""
    who = asker()
    if who.role.allows(Role.SUBMITTER):
        return True
    ui.notify(
        f"{who.name} is {who.role.value}: it takes the role submitter to change something", type="warning"
    )
    return False


async def record(action: str) -> None:
    """Write what was done on the page into the audit; what goes through the API is written there."""
    who, client = asker(), ui.context.client.request.client
    deed = Deed(who.name, f"page: {action}", who.token_id, client.host if client else None, 200)
    await run_in_threadpool(site().store.audit, deed)


def log_out() -> None:
    """Who is logged in, and the way out; nothing where nobody needs to be."""
    who = asker()
    if who.via != "cookie":
        return
    root = str(ui.context.client.request.scope.get("root_path", ""))
    with ui.element("form").props(f'method=post action="{root}/logout"').classes("log-out"):
        button = ui.element("button").props('type=submit aria-label="Log out"')
        button.tooltip(f"{who.name}, {who.role.value}")
        with button:
            ui.label("Log out")
