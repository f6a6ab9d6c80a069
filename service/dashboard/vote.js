// The blind vote: two images, three answers. It speaks to the API itself, so that an answer costs no round trip
// of the page; the next pair is fetched, and its images loaded, while this one is looked at.
// Everything that people wrote is set as text, never as HTML.
(() => {
  const AHEAD = 3, POLL_MS = 2500, NAME = "autombw-voter";

  const start = (root) => {
    const base = root.dataset.prefix || "";
    const state = { voting: null, queue: [], shown: null, last: null, busy: false, seen: new Set() };
    const stored = () => { try { return localStorage.getItem(NAME); } catch { return null; } };
    let voter = stored() || `voter-${random(4)}`;
    const keep = () => { try { localStorage.setItem(NAME, voter); } catch { /* private browsing */ } };
    keep();

    const make = (tag, className = "", text = "") => {
      const element = document.createElement(tag);
      if (className) element.className = className;
      if (text) element.textContent = text;
      return element;
    };
    const head = make("div", "vote-head"), what = make("div", "strong wrap"), count = make("div", "soft num");
    const bar = make("div", "bar"), filled = make("div"), prompt = make("p", "vote-prompt wrap");
    const pair = make("div", "vote-pair"), buttons = make("div", "vote-buttons"), foot = make("div", "vote-foot");
    const trouble = make("div", "banner bad"), rest = make("div", "empty");
    bar.append(filled); bar.setAttribute("role", "progressbar"); bar.setAttribute("aria-label", "Votes");
    trouble.setAttribute("role", "alert"); trouble.hidden = true;
    head.append(what, count);

    const side = (name, key) => {
      const button = make("button", "vote-side"), image = make("img"), label = make("span", "vote-key", key);
      button.type = "button";
      button.setAttribute("aria-label", `The ${name} image is better`);
      image.alt = `${name} image`; image.decoding = "async"; image.draggable = false;
      button.append(image, label);
      button.onclick = () => answer(name);
      pair.append(button);
      return { button, image };
    };
    const left = side("left", "←"), right = side("right", "→");
    const tie = make("button", "vote-tie", "Neither (space)"), undo = make("button", "vote-undo", "Undo (U)");
    tie.type = undo.type = "button";
    tie.onclick = () => answer("tie");
    undo.onclick = () => takeBack();
    undo.disabled = true;
    buttons.append(undo, tie);
    const who = make("label", "soft small", "You vote as "), name = make("input", "vote-name");
    name.value = voter; name.maxLength = 100; name.setAttribute("aria-label", "Your name");
    name.onchange = () => { voter = name.value.trim() || voter; name.value = voter; keep(); };
    who.append(name);
    foot.append(who, make("span", "soft small", "Which is the better picture of the prompt? Sides are shuffled."));
    const icon = make("i", "q-icon material-icons", "how_to_vote");
    icon.setAttribute("aria-hidden", "true");
    const restTitle = make("div", "empty-title"), restWords = make("div", "soft");
    rest.append(icon, restTitle, restWords);
    root.replaceChildren(trouble, head, bar, prompt, pair, buttons, foot, rest);

    const ask = async (path, options = {}) => {
      const response = await fetch(`${base}/api/v1${path}`, { credentials: "same-origin", ...options });
      const body = await response.json().catch(() => ({}));
      if (!response.ok) throw Object.assign(new Error(body.detail || `${response.status}`), { status: response.status });
      return body;
    };
    const route = (end = "") =>
      `/jobs/${encodeURIComponent(state.voting.job)}/nodes/${encodeURIComponent(state.voting.node)}/votes${end}`;
    const say = (words) => { trouble.textContent = words || ""; trouble.hidden = !words; };

    const draw = () => {
      const voting = state.voting, shown = state.shown;
      for (const part of [head, bar, prompt, pair, buttons, foot]) part.hidden = !shown;
      rest.hidden = Boolean(shown);
      if (!shown) {
        restTitle.textContent = voting ? "One moment" : "Nothing waits for votes";
        restWords.textContent = voting ? "The next pair is on its way."
          : "When a job has the scorer human, its trials wait here until people have compared them. "
            + "The page looks again by itself.";
        return;
      }
      what.textContent = `${voting.job_name} · ${voting.node}${voting.phase === "heldout" ? " · held-out" : ""}`;
      count.textContent = `${voting.there} of ${voting.needed} votes`;
      const share = voting.needed ? Math.min(100, (100 * voting.there) / voting.needed) : 0;
      filled.style.width = `${share}%`;
      bar.setAttribute("aria-valuenow", String(Math.round(share)));
      prompt.textContent = shown.prompt;
      left.image.src = base + shown.left_image;
      right.image.src = base + shown.right_image;
      undo.disabled = !state.last;
    };

    const fill = async () => {
      if (!state.voting) return false;
      const asked = route();
      const found = await ask(route(`/next?count=${AHEAD}&voter=${encodeURIComponent(voter)}`));
      if (!state.voting || route() !== asked) return false;
      const known = new Set(state.queue.map(same));
      if (state.shown) known.add(same(state.shown));
      for (const next of found.pairs) {
        if (known.has(same(next)) || state.seen.has(same(next))) continue;
        state.queue.push(next);
        for (const path of [next.left_image, next.right_image]) new Image().src = base + path;
      }
      // Nothing but what was judged already: it is asked again rather than nothing.
      if (!state.shown && !state.queue.length) state.queue.push(...found.pairs);
      return found.voting.waits;
    };

    const advance = async () => {
      state.shown = state.queue.shift() || null;
      draw();
      if (state.queue.length >= AHEAD - 1) return;
      // The next pair is on the screen already: an answer to it must not wait for the one after it.
      if (state.shown) { fill().catch(() => {}); return; }
      if (!(await fill())) { await look(); return; }
      state.shown = state.queue.shift() || null;
      draw();
    };

    const look = async () => {
      const waiting = await ask("/votes");
      const wanted = root.dataset.job
        ? waiting.filter((v) => v.job === root.dataset.job && (!root.dataset.node || v.node === root.dataset.node))
        : waiting;
      state.voting = wanted[0] || null;
      state.queue = []; state.shown = null; state.seen.clear();
      if (state.voting) { await fill(); state.shown = state.queue.shift() || null; }
      draw();
    };

    const guarded = async (step) => {
      if (state.busy) return;
      state.busy = true;
      try { await step(); say(""); }
      catch (error) {
        if (error.status === 409) await look().catch(() => {});
        else say(error.status ? error.message : "The service does not answer. Your next click tries again.");
      } finally { state.busy = false; }
    };

    const answer = (outcome) => guarded(async () => {
      const shown = state.shown;
      if (!shown) return;
      const chosen = { left: left.button, right: right.button, tie }[outcome];
      chosen.classList.add("chosen");
      setTimeout(() => chosen.classList.remove("chosen"), 220);
      const body = { key: shown.key, probe: shown.probe, left: shown.left, right: shown.right, outcome, voter };
      const voting = await ask(route(), {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      state.last = { pair: shown, route: route(`/${encodeURIComponent(shown.key)}`), voting };
      state.seen.add(same(shown));
      if (!voting.waits) { state.last = null; await look(); return; }
      state.voting = voting;
      await advance();
    });

    const takeBack = () => guarded(async () => {
      const last = state.last;
      if (!last) return;
      state.voting = await ask(last.route, { method: "DELETE" });
      if (state.shown) state.queue.unshift(state.shown);
      // The vote that was taken back keeps its key: the next one needs another.
      state.shown = { ...last.pair, key: random(8) };
      state.seen.delete(same(last.pair));
      state.last = null;
      draw();
    });

    document.addEventListener("keydown", (event) => {
      if (event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const outcome = { ArrowLeft: "left", ArrowRight: "right", " ": "tie" }[event.key];
      if (event.repeat || !root.isConnected) return;
      if (outcome && state.shown) { event.preventDefault(); answer(outcome); }
      else if (event.key.toLowerCase() === "u") takeBack();
    });
    setInterval(() => {
      if (document.hidden || state.busy || !root.isConnected) return;
      if (!state.shown) guarded(look);
      else ask(route()).then((voting) => { if (!state.busy && state.shown) { if (voting.waits) { state.voting = voting; draw(); } else guarded(look); } }).catch(() => {});
    }, POLL_MS);
    guarded(look);
  };

  const same = (pair) => [pair.probe, ...[pair.left, pair.right].sort()].join("/");
  const random = (bytes) =>
    Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
  const wait = setInterval(() => {
    const root = document.getElementById("vote");
    if (root) { clearInterval(wait); start(root); }
  }, 30);
})();
