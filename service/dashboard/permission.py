"""Whether who looks at a page may change something: asked by every button that does."""

from __future__ import annotations

from nicegui import ui

from service.access.identity import Identity, identity_of
from service.access.roles import Role


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
