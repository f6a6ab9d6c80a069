"""The map of the models' distances: drawn when asked for, watched meanwhile, kept until a file changes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from nicegui import background_tasks, ui

from optimizer.checkpoints import size_of
from scoring.errors import InputError
from service.api.context import Ctx
from service.api.problems import responses
from service.dashboard.layout import panel
from service.dashboard.permission import may_change
from service.dashboard.site import Site, site
from service.errors import NotFound
from service.threads import run_long

MAPS = "distance-maps"
POLL_SECONDS = 0.5
logger = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)


@router.get("/distance-maps/{key}.png", response_class=FileResponse, responses=responses(404))
def distance_map(key: str, context: Ctx) -> FileResponse:
    """A map that was drawn, by the digest of what it shows."""
    kept = context.settings.data_dir / MAPS / f"{key}.png"
    if not key.isalnum() or not kept.is_file():
        raise NotFound(f"there is no map {key!r}; draw it on the page of the models")
    return FileResponse(kept, media_type="image/png")


class Drawing:
    """A map that is being drawn. trouble: why it was not."""

    def __init__(self, names: Sequence[str], out: Path) -> None:
        self._names, self._out = names, out
        self.words, self.share = "begins", 0.0
        self.trouble = ""
        self.over = False

    async def run(self, here: Site) -> None:
        """Draw it to its end, or until it fails."""
        try:
            await run_long(self._draw, here)
        except (InputError, OSError) as error:
            self.trouble = str(error)
        except Exception as error:
            logger.exception("the map of the models could not be drawn")
            self.trouble = f"it failed ({type(error).__name__}); the log of the service tells more"
        finally:
            self.over = True

    def _draw(self, here: Site) -> None:
        from optimizer.distances import distances_between
        from service.distance_map import draw_distance_map

        paths = [here.catalog.path(name) for name in self._names]
        found = distances_between(paths, here.settings.cache_dir, self._told)
        self._told("draws the map", 1.0)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        drawn = self._out.with_name(f".{self._out.name}")
        draw_distance_map(drawn, found, self._names, paths, here.settings.cache_dir)
        drawn.replace(self._out)

    def _told(self, words: str, share: float) -> None:
        self.words, self.share = words, share


_drawings: dict[Path, Drawing] = {}
"""Those that are being drawn or failed, by their file: all browsers see the same one."""


class DistancePanel:
    """The map of some models of one architecture, with the button that draws it."""

    def __init__(self, names: Sequence[str], title: str) -> None:
        self._names = list(names)
        self._out = site().settings.data_dir / MAPS / f"{self._key()}.png"
        with panel(title, note="How far the UNets lie from each other; arrows go to what was merged."):
            self._box = ui.element("div")
        self._timer = ui.timer(POLL_SECONDS, self._show, active=False)
        self._show()

    def _show(self) -> None:
        drawing = _drawings.get(self._out)
        self._timer.active = drawing is not None and not drawing.over
        self._box.clear()
        with self._box:
            if drawing is not None and not drawing.over:
                with ui.element("div").props('role="status"'):
                    ui.label(f"{len(self._names)} files: {drawing.words}, {drawing.share:.0%}")
                ui.linear_progress(drawing.share, show_value=False).props('aria-label="Progress of the map"')
            elif self._out.is_file():
                ui.image(f"/{MAPS}/{self._out.name}").props["alt"] = "Map of the models"
            else:
                if drawing is not None:
                    ui.label(drawing.trouble).classes("banner bad").props('role="alert"')
                words = "Draw the map" if drawing is None else "Try again"
                ui.button(words, icon="hub", on_click=self._begin)
                ui.label("It reads every file once, which takes a minute for ten of 4 GB.").classes(
                    "soft small"
                )

    def _begin(self) -> None:
        if not may_change():
            return
        known = _drawings.get(self._out)
        if known is None or known.over:
            drawing = _drawings[self._out] = Drawing(self._names, self._out)
            background_tasks.create(drawing.run(site()), name="the map of the models")
        self._show()

    def _key(self) -> str:
        """What the map shows: names, sizes and times of the files."""
        said = []
        for name in self._names:
            path = site().catalog.path(name)
            said.append(f"{name}/{size_of(path)}/{path.stat().st_mtime_ns}")
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
