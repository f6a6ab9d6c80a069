"""Pages that a script of ours draws: where every click of a session on the server would be a detour."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui

FOLDER = Path(__file__).parent
_STYLE = (FOLDER / "vote.css").read_text(encoding="utf-8")


def scripted(name: str, **data: str) -> None:
    """The place that `<name>.js` draws in, with what it is told as data attributes."""
    ui.add_css(_STYLE)
    place = ui.element("div").props(f'id="{name}"')
    place.props["data-prefix"] = prefix()
    for key, value in data.items():
        # Set as a value, not as props text: it may hold quotes.
        place.props[f"data-{key}"] = value
    script = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    ui.add_body_html(f"<script>{script}</script>")


def prefix() -> str:
    """The path prefix that a proxy serves the service under; empty without one."""
    request = ui.context.client.request
    return str(request.headers.get("X-Forwarded-Prefix", "") or request.scope.get("root_path", "")).rstrip(
        "/"
    )
