"""The same probe and seed by several trials: in a row, and two of them over each other with a slider."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.concurrency import run_in_threadpool
from nicegui import ui

from scoring.probes import Probe
from service.dashboard.charts import Chart
from service.dashboard.contenders import Contender, choices, load, probes_of
from service.dashboard.node_charts import heat_chart
from service.dashboard.node_topics import NodeView
from service.dashboard.pictures import image_url, thumbnail_url
from service.dashboard.site import site
from service.dashboard.texts import number
from service.dashboard.theme import Palette
from service.db.records import RenderRecord
from service.db.states import RenderState

BESIDE = 6
"""How many pictures fit in a row."""
HEAT_TRIALS = 8
TINY_PIXELS = 128


class Compare:
    """Pictures of chosen trials, and what every probe scored with each."""

    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._found: list[Contender] = []
        self._busy = False
        self._asked_again = False
        with ui.element("div").classes("toolbar"):
            self._phase = ui.toggle({"search": "search probes", "heldout": "held-out"}, value="search")
            self._phase.props("dense no-caps unelevated").on_value_change(self._change_phase)
            self._keys = ui.select({}, multiple=True, label="Trials", value=[]).props(
                "dense outlined use-chips"
            )
            self._keys.classes("grow")
            self._keys.on_value_change(self._reload)
        with ui.element("div").classes("probe-line"):
            self._back = ui.button(icon="chevron_left", on_click=lambda: self._step(-1)).props(
                "flat dense round"
            )
            self._back.props["aria-label"] = "Probe before"
            self._slider = (
                ui.slider(min=0, max=0, step=1, value=0).props('snap aria-label="Probe"').classes("grow")
            )
            self._slider.on_value_change(lambda _: self._show_pictures())
            self._on = ui.button(icon="chevron_right", on_click=lambda: self._step(1)).props(
                "flat dense round"
            )
            self._on.props["aria-label"] = "Next probe"
        self._prompt = ui.label().classes("wrap strong prompt")
        self._facts = ui.label().classes("soft small wrap")
        self._row = ui.element("div").classes("beside")
        with ui.expansion("Slide one over the other", icon="compare").classes("wipe-box") as self._wipe_box:
            self._wipe = Wipe()
        with ui.element("div").classes("heat-head"):
            ui.label("Score of every probe").classes("strong")
            self._scorer = ui.select([], label="Scorer").props("dense outlined").classes("scorer-choice")
            self._scorer.on_value_change(lambda _: self._show_heat())
            self._against = ui.toggle({False: "as it is", True: "minus uniform"}, value=False)
            self._against.props("dense no-caps unelevated").on_value_change(lambda _: self._show_heat())
        ui.label("The scorer's own numbers. Click a cell to look at its probe.").classes("soft small")
        self._heat = Chart("Score of every probe by trial", on_click=self._pick)

    def update(self, view: NodeView) -> None:
        """Take what is known by now; what a person chose stays."""
        first = self._view is None
        old_best = self._view.best.number if self._view and self._view.best else None
        self._view = view
        heldout = self._phase.value == "heldout"
        offered = choices(view, heldout=heldout, also=self._keys.value)
        chosen = [key for key in self._keys.value if key in offered]
        wanted = [key for key in ("a", "b", "uniform", "best") if key in offered]
        if first or not chosen or (len(chosen) < 4 and all(key in wanted for key in chosen)):
            chosen = wanted or list(offered)[:1]
        # Most trials are none of those that are offered, and each option costs every browser's page.
        if offered != self._keys.options or chosen != self._keys.value:
            self._keys.set_options(offered, value=chosen)
        self._phase.set_visibility(bool(view.plan.heldout) and view.progress.stop_reason is not None)
        new_best = view.best.number if view.best else None
        if first or new_best != old_best:
            self._reload()

    def look_at(self, key: str) -> None:
        """Add a trial to those that are shown."""
        if key not in self._keys.value and self._view is not None:
            keys = [*self._keys.value, key][-BESIDE:]
            heldout = self._phase.value == "heldout"
            self._keys.set_options(choices(self._view, heldout=heldout, also=keys), value=keys)

    async def _load(self) -> None:
        if self._busy:
            self._asked_again = True
            return
        self._busy = True
        try:
            while True:
                self._asked_again = False
                view = self._view
                if view is None:
                    return
                heldout = self._phase.value == "heldout"
                keys = list(self._keys.value)
                if not heldout:
                    keys += [str(t.number) for t in view.ranked[1:HEAT_TRIALS] if str(t.number) not in keys]
                self._found = await run_in_threadpool(load, site().store, view, keys, heldout=heldout)
                self._show(view)
                if not self._asked_again:
                    return
        finally:
            self._busy = False

    def _reload(self, _event: object = None) -> None:
        ui.timer(0, self._load, once=True)

    def _change_phase(self) -> None:
        if self._view is not None:
            heldout = self._phase.value == "heldout"
            offered = choices(self._view, heldout=heldout)
            self._keys.set_options(
                offered, value=[key for key in self._keys.value if key in offered][:BESIDE]
            )
            self._slider.set_value(0)
            self._reload()

    def _probes(self) -> Sequence[Probe]:
        return probes_of(self._view, heldout=self._phase.value == "heldout") if self._view else []

    def _step(self, by: int) -> None:
        self._slider.set_value(max(0, min(len(self._probes()) - 1, int(self._slider.value) + by)))

    def _show(self, view: NodeView) -> None:
        self._slider.props["max"] = max(0, len(self._probes()) - 1)
        scorers = list(
            dict.fromkeys(name for each in self._found for r in each.renders.values() for name in r.scores)
        )
        counting = [spec.scorer for spec in view.plan.scorers]
        scorers.sort(key=lambda name: (name not in counting, name))
        value = self._scorer.value if self._scorer.value in scorers else next(iter(scorers), None)
        self._scorer.set_options(scorers, value=value)
        self._show_pictures()
        self._show_heat()

    def _chosen(self) -> list[Contender]:
        by_key = {each.key: each for each in self._found}
        return [by_key[key] for key in self._keys.value if key in by_key][:BESIDE]

    def _show_pictures(self) -> None:
        probes, place = self._probes(), int(self._slider.value)
        if not 0 <= place < len(probes):
            return
        probe = probes[place]
        self._prompt.set_text(probe.prompt)
        self._facts.set_text(
            f"probe {place + 1} of {len(probes)} · seed {probe.seed} · {probe.sampler}, {probe.steps} steps, "
            f"CFG {probe.cfg_scale:g}, {probe.width} × {probe.height}"
        )
        tiny = "tiny" if max(probe.width, probe.height) < TINY_PIXELS else ""
        self._row.clear()
        with self._row:
            for each in self._chosen():
                self._picture(each, each.renders.get(place), probe, tiny)
        self._wipe.offer(
            {
                each.label: image_url(each.renders[place].sha256)
                for each in self._chosen()
                if place in each.renders and each.renders[place].state is RenderState.STORED
            },
            tiny,
        )

    def _picture(self, each: Contender, render: RenderRecord | None, probe: Probe, tiny: str) -> None:
        with ui.element("figure").classes(f"shown {tiny}"):
            if render is None or render.state is not RenderState.STORED:
                words = "not rendered yet" if render is None else "image collected"
                with ui.element("div").classes("render missing"):
                    ui.label(words).classes("soft small")
            else:
                with ui.link(target=image_url(render.sha256), new_tab=True):
                    shown = ui.image(thumbnail_url(render.sha256, 512)).classes("render")
                    shown.props["alt"] = f"{each.label}: {probe.prompt}"
            with ui.element("figcaption"):
                ui.label(each.label).classes("wrap strong small")
                scores = render.scores if render else {}
                name = self._scorer.value
                ui.label(f"{name} {number(scores[name])}" if name in scores else "").classes("soft small num")

    def _show_heat(self) -> None:
        name = self._scorer.value
        probes = self._probes()
        columns = [*self._chosen(), *(each for each in self._found if each.key not in self._keys.value)]
        columns = columns[: max(HEAT_TRIALS, len(self._chosen()))]
        labels = [each.label.split(":")[0] if each.key != "best" else "best" for each in columns]
        cells = [
            (column, place, render.scores[name])
            for column, each in enumerate(columns)
            for place, render in each.renders.items()
            if name in render.scores and place < len(probes)
        ]
        plain = next((each for each in self._found if each.key == "uniform"), None)
        self._against.set_visibility(plain is not None)
        around_zero = bool(self._against.value) and plain is not None
        if around_zero and plain is not None:
            base = {place: render.scores.get(name) for place, render in plain.renders.items()}
            cells = [
                (c, place, value - known)
                for c, place, value in cells
                if (known := base.get(place)) is not None
            ]
        rows = [f"{place + 1} {probe.prompt}" for place, probe in enumerate(probes)]
        height = min(900, 70 + (22 if len(rows) <= 40 else 6) * len(rows))
        self._heat.element.style(f"height: {height}px")

        def draw(palette: Palette) -> dict[str, object]:
            return heat_chart(labels, rows, cells, palette, around_zero=around_zero)

        self._heat.show(draw)

    def _pick(self, event: object) -> None:
        data = getattr(event, "data", None)
        cell = data.get("value") if isinstance(data, dict) else data
        if isinstance(cell, list) and len(cell) == 3:
            self._slider.set_value(int(cell[1]))


class Wipe:
    """Two pictures over each other; the slider moves the edge between them, in the browser alone."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}
        with ui.element("div").classes("toolbar"):
            self._left = ui.select([], label="left").props("dense outlined").classes("grow")
            self._right = ui.select([], label="right").props("dense outlined").classes("grow")
        self._left.on_value_change(lambda _: self._show())
        self._right.on_value_change(lambda _: self._show())
        with ui.element("div").classes("wipe") as self._box:
            self._under = ui.image().classes("render")
            self._over = ui.image().classes("render over")
        slider = ui.slider(min=0, max=100, value=50).props('aria-label="Edge between the pictures"')
        slider.classes("wipe-slider")
        slider.on(
            "update:model-value",
            js_handler=f"(value) => getHtmlElement({self._box.id}).style.setProperty('--edge', value + '%')",
        )

    def offer(self, urls: dict[str, str], tiny: str) -> None:
        """The pictures to choose from, by label."""
        self._urls = urls
        labels = list(urls)
        left = self._left.value if self._left.value in urls else next(iter(labels), None)
        right = self._right.value if self._right.value in urls else next(reversed(labels), None)
        self._left.set_options(labels, value=left)
        self._right.set_options(labels, value=right)
        self._box.classes(replace=f"wipe {tiny}")
        self._show()

    def _show(self) -> None:
        for image, choice in ((self._over, self._left), (self._under, self._right)):
            url = self._urls.get(str(choice.value))
            image.set_visibility(url is not None)
            if url is not None:
                image.set_source(url)
                image.props["alt"] = str(choice.value)
