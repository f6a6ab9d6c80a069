// The contact sheet of all renders. Pages come as one scrolls; only the tiles that can be seen are in the
// document, so that the hundred-thousandth costs what the first did. What people wrote is set as text.
(() => {
  const PAGE = 240, WIDTH = 160, GAP = 8, WORDS = 44, ROWS_AROUND = 2;

  const start = (root) => {
    const base = root.dataset.prefix || "";
    const make = (tag, className = "", text = "") => {
      const element = document.createElement(tag);
      if (className) element.className = className;
      if (text) element.textContent = text;
      return element;
    };
    const bar = make("div", "gallery-bar"), space = make("div", "gallery-space"), rest = make("div", "empty");
    const count = make("span", "soft num"), trouble = make("div", "banner bad");
    trouble.hidden = rest.hidden = true; trouble.setAttribute("role", "alert");
    count.setAttribute("role", "status");
    rest.append(make("div", "empty-title", "No renders here"), make("div", "soft",
      "Every image that a trial renders is shown here, the newest trials first. Change the filter, or wait for the first."));
    const choice = (label, options) => {
      const select = make("select");
      select.setAttribute("aria-label", label);
      for (const [value, words] of options) select.append(Object.assign(make("option", "", words), { value }));
      select.onchange = () => (select === job ? chooseJob() : restart());
      bar.append(select);
      return select;
    };
    const figure = (label) => {
      const input = make("input");
      input.type = "number"; input.min = "0"; input.placeholder = label; input.setAttribute("aria-label", label);
      input.onchange = () => restart();
      bar.append(input);
      return input;
    };
    const job = choice("Job", [["", "All jobs"]]), node = choice("Node", [["", "All nodes"]]);
    const kind = choice("Trials", [["", "All trials"], ["search", "Search"], ["heldout", "Held-out"]]);
    const trial = figure("Trial"), probe = figure("Probe");
    bar.append(count);
    root.replaceChildren(trouble, bar, rest, space);

    let renders = [], next = null, over = false, loading = false, total = 0, round = 0, asked = 0;
    const tiles = new Map();
    const get = async (path) => {
      const response = await fetch(`${base}/api/v1${path}`, { credentials: "same-origin" });
      const body = await response.json().catch(() => ({}));
      if (!response.ok) throw new Error(body.detail || `${response.status}`);
      return body;
    };
    const query = () => {
      const wanted = new URLSearchParams({ limit: PAGE });
      for (const [name, field] of [["job", job], ["node", node], ["trial", trial], ["probe", probe]])
        if (field.value !== "") wanted.set(name, field.value);
      const kinds = { search: ["search"], heldout: ["a", "b", "uniform", "winner"].map((k) => `heldout_${k}`) };
      for (const each of kinds[kind.value] || []) wanted.append("kind", each);
      if (next) wanted.set("after", next);
      return wanted;
    };

    const layout = () => {
      const columns = Math.max(2, Math.floor((space.clientWidth + GAP) / (WIDTH + GAP)));
      const width = (space.clientWidth - GAP * (columns - 1)) / columns;
      return { columns, width, height: width + WORDS };
    };

    const draw = () => {
      const { columns, width, height } = layout(), step = height + GAP;
      space.style.height = `${Math.ceil(renders.length / columns) * step}px`;
      const top = -space.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / step) - ROWS_AROUND) * columns;
      const last = Math.min(renders.length, (Math.ceil((top + innerHeight) / step) + ROWS_AROUND) * columns);
      for (const [index, tile] of tiles) if (index < first || index >= last) { tile.remove(); tiles.delete(index); }
      for (let index = first; index < last; index++) {
        const tile = tiles.get(index) || tileOf(index);
        tile.style.width = `${width}px`; tile.style.height = `${height}px`;
        tile.style.transform = `translate(${(index % columns) * (width + GAP)}px, ${Math.floor(index / columns) * step}px)`;
      }
      count.textContent = `${total.toLocaleString("en")} images`;
      if (!over && last + 4 * columns >= renders.length) load();
    };

    const tileOf = (index) => {
      const render = renders[index], tile = make("a", "tile"), image = make("img");
      const phase = render.kind === "search" ? `trial ${render.trial}` : render.kind.replace("heldout_", "held-out ");
      tile.href = `${base}/api/v1/images/${render.sha256}.png`;
      tile.target = "_blank"; tile.rel = "noopener";
      image.src = `${base}/thumbnails/256/${render.sha256}.webp`;
      image.loading = "lazy"; image.decoding = "async";
      image.alt = `${render.job_name}, ${render.node}, ${phase}, probe ${render.probe}`;
      tile.title = image.alt;
      const score = render.score === null ? (render.trial_state === "waiting" ? "waits for votes" : "") : render.score.toFixed(4);
      tile.append(image, make("div", "", `${render.node} · ${phase} · probe ${render.probe}`), make("div", "soft", score || render.trial_state));
      space.append(tile);
      tiles.set(index, tile);
      return tile;
    };

    const load = async () => {
      if (loading || over) return;
      loading = true;
      const mine = round;
      try {
        const page = await get(`/renders?${query()}`);
        if (mine !== round) return;
        renders.push(...page.renders);
        next = page.next; over = !page.next;
        if (page.total !== null) total = page.total;
        rest.hidden = renders.length > 0;
        trouble.hidden = true;
      } catch (error) {
        trouble.textContent = error.message; trouble.hidden = false; over = true;
      } finally {
        loading = false;
        asked++;
        root.dataset.loaded = String(renders.length);
      }
      draw();
    };
    const restart = () => {
      round++;
      renders = []; next = null; over = loading = false;
      for (const tile of tiles.values()) tile.remove();
      tiles.clear();
      load();
    };
    const chooseJob = async () => {
      node.replaceChildren(Object.assign(make("option", "", "All nodes"), { value: "" }));
      if (job.value) {
        const found = await get(`/jobs/${encodeURIComponent(job.value)}`);
        for (const each of found.nodes) node.append(Object.assign(make("option", "", each.name), { value: each.name }));
      }
      restart();
    };
    let due = false;
    const soon = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; if (root.isConnected) draw(); }); } };
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon);
    get("/jobs?limit=200").then((jobs) => {
      for (const each of jobs) job.append(Object.assign(make("option", "", each.name), { value: each.id }));
    }).catch(() => {});
    load();
  };
  const wait = setInterval(() => {
    const root = document.getElementById("gallery");
    if (root) { clearInterval(wait); start(root); }
  }, 30);
})();
