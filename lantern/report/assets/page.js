"use strict";
(() => {
  const $ = (name, attributes, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
      else if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  // theme: system -> light -> dark
  const theme = document.getElementById("theme");
  if (theme) {
    const names = ["system", "light", "dark"];
    let chosen = 0;
    theme.addEventListener("click", () => {
      chosen = (chosen + 1) % names.length;
      document.documentElement.style.colorScheme = chosen ? names[chosen] : "";
      theme.textContent = `theme: ${names[chosen]}`;
    });
  }

  // one setting at a time
  for (const select of document.querySelectorAll("select.lines")) {
    const panels = select.closest("section").querySelectorAll(".panel");
    const show = () => panels.forEach((panel) => { panel.hidden = panel.dataset.line !== select.value; });
    select.addEventListener("change", show);
    show();
  }

  // a click on a head sorts its table; again, the other way round
  const number = (text) => { const found = text.replace(/,/g, "").match(/[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i); return found ? Number(found[0]) : null; };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const sort = (head, column) => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => { const text = row.cells[column].textContent.trim(); return column ? number(text) : text; };
      const rows = [...body.rows].map((row) => [value(row), row]);
      const known = rows.filter(([one]) => one !== null), none = rows.filter(([one]) => one === null);
      known.sort(([a], [b]) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (down ? -1 : 1));
      body.append(...[...known, ...none].map(([, row]) => row));
    };
    heads.forEach((head, column) => {
      head.addEventListener("click", () => sort(head, column));
      head.addEventListener("keydown", (event) => { if ([" ", "Enter"].includes(event.key)) { event.preventDefault(); sort(head, column); } });
    });
  }

  // all of it on paper; a link into a fold opens it
  const folds = [...document.querySelectorAll("details.fold")];
  let closed = [];
  addEventListener("beforeprint", () => { closed = folds.filter((fold) => !fold.open); closed.forEach((fold) => { fold.open = true; }); });
  addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));
  for (const link of document.querySelectorAll("nav a[href^='#']")) {
    link.addEventListener("click", () => {
      const target = document.getElementById(link.getAttribute("href").slice(1));
      target?.closest("details.fold")?.setAttribute("open", "");
      target?.querySelector("details.fold")?.setAttribute("open", "");
    });
  }

  // packed numbers: see lantern/report/reader.py
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const VALUE = Object.fromEntries([...ALPHABET].map((sign, place) => [sign, place]));
  const NOTHING = 4095;

  const unpack = (run, set, turn) => {
    const [place, index, id, speaker, label, gold = null, text = null, times = "", missing = 0] = turn;
    const read = { index, id, speaker: set.speakers[speaker], number: speaker, label, gold, text, times, missing, fields: [] };
    if (!run.rows) return read;  // a corpus: nothing is predicted
    const C = set.classes.length;
    let at = place * run.width;
    const next = () => { const v = 64 * VALUE[run.rows[at]] + VALUE[run.rows[at + 1]]; at += 2; return v; };
    const vector = (count, part = 1000) => {
      const values = Array.from({ length: count }, next);
      return values.includes(NOTHING) ? null : values.map((v) => v / part);
    };
    const vanilla = vector(C);
    const scores = run.scores ? vector(3, 100)?.map((v) => v - 20) ?? null : null;
    for (let band = 0; band < run.t; band++) {
      const [state, length, position] = [next(), next(), next()];
      const probabilities = vector(C);
      if (state !== NOTHING) {
        read.fields.push({ band, length, position, probabilities, repaired: state === 1,
          failure: state >= 2 ? run.kinds[state - 2] : null });
      }
    }
    const weights = run.t ? vector(run.t + 1) : null;
    const merged = vector(C);
    const first = top(vanilla), then = top(merged || vanilla);
    return { ...read, vanilla, scores, weights, merged, changed: first !== then,
      helped: label >= 0 && first !== label && then === label,
      harmed: label >= 0 && first === label && then !== label,
      failed: read.fields.some((field) => field.failure) };
  };
  const top = (p) => p.reduce((best, v, k) => (v > p[best] ? k : best), 0);
  const percent = (value) => String(Math.round(100 * value));
  const DIMENSIONS = ["valence", "arousal", "dominance"];
  const SIGNS = { helped: "▲ helped", harmed: "▼ harmed", failed: "✕ failed" };

  const LISTED = 3000;
  const plural = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

  function reader(root, data) {
    let run = 0, dialogue = 0, filter = "all", whole = false, current = null, shown = [];
    // A conversation of your own has no gold labels and often neither LLM, other runs nor other dialogues; a corpus has
    // no predictions, but so many dialogues that they are listed at the side.
    const every = data.sets.flatMap((set) => set.dialogues);
    const gold = every.some((one) => one.turns.some((turn) => turn[4] >= 0));
    const predicted = data.runs.some((one) => one.rows), refined = data.runs.some((one) => one.t);
    const many = data.sets.some((set) => set.dialogues.length > 1);
    const splits = [...new Set(every.map((one) => one.split))].filter((name) => name !== undefined);
    const filters = ["all", ...(gold && refined ? ["helped", "harmed"] : []), ...(refined ? ["failed", "changed"] : [])];
    const runs = $("select", { "aria-label": "run" }, ...data.runs.map((one, k) => $("option", { value: k }, one.name)));
    const dialogues = $("select", { "aria-label": "dialogue" });
    const side = predicted ? null : $("nav", { class: "list", "aria-label": "dialogues" });
    const search = $("input", { type: "search", placeholder: "search id, speaker or words", "aria-label": "search" });
    const split = $("select", { class: "split", "aria-label": "split" }, $("option", {}, "all splits"),
      ...splits.map((name) => $("option", {}, name || "in no split")));
    const buttons = (refined ? filters : []).map((name) => $("button", { type: "button", "data-filter": name, "aria-pressed": name === "all" }, name));
    const expand = $("button", { type: "button", "aria-pressed": "false", class: "expand" }, "all bars");
    const [back, next] = [["previous", "←"], ["next", "→"]].map(([name, sign]) =>
      $("button", { type: "button", "aria-label": `${name} dialogue` }, sign));
    const count = $("span", { class: "note count", role: "status" });
    const title = $("h3"), about = $("p", { class: "note" });
    const talk = $("ol", { class: "talk" });
    const key = (...names) => names.map((name) => $("kbd", {}, name));
    root.append(
      $("div", { class: "tools" }, data.runs.length > 1 ? $("label", {}, "run ", runs) : null,
        many && !side ? $("label", {}, "dialogue ", dialogues) : null, many ? search : null, splits.length ? split : null,
        side ? count : null),
      side ? "" : $("div", { class: "tools", role: "group", "aria-label": "filter" }, ...buttons, expand, count),
      $("p", { class: "help" }, ...(predicted ? [...key("j", "k"), " or ", ...key("↓", "↑"), " turns · "] : []),
        ...(many ? [...key("n", "p"), " or ", ...key("→", "←"), " dialogues"] : []), ...(many && predicted ? [" · "] : []),
        ...(refined ? [...key("f"), " filter · "] : []), ...(predicted ? [...key("x"), " all bars"] : [])),
      side ? $("div", { class: "beside" }, side, $("div", {}, $("div", { class: "move" }, back, title, next), about, talk)) : talk);
    const set = () => data.sets[data.runs[run].set];
    const cache = new Map();
    const turns = (place) => {
      const name = `${run}/${place}`;
      if (!cache.has(name)) cache.set(name, set().dialogues[place].turns.map((turn) => unpack(data.runs[run], set(), turn)));
      return cache.get(name);
    };
    const words = () => search.value.trim().toLowerCase();
    const haystack = new Map();
    const holds = (one) => {
      if (!haystack.has(one)) {
        const said = one.turns.map((turn) => [turn[2], set().speakers[turn[3]], turn[6]].join("\n"));
        haystack.set(one, [one.id, one.session, ...said].join("\n").toLowerCase());
      }
      return haystack.get(one).includes(words());
    };
    const passes = (turn) => filter === "all" || turn[filter];
    const matches = (place) => turns(place).filter(passes).length;
    const listed = () => set().dialogues.map((_, place) => place).filter((place) => {
      const one = set().dialogues[place];
      return (!split.selectedIndex || one.split === splits[split.selectedIndex - 1]) && (!words() || holds(one));
    });

    function list() {
      const places = listed(), all = set().dialogues;
      if (!places.includes(dialogue)) dialogue = places.length ? places[0] : 0;
      dialogues.replaceChildren(...places.map((k) =>
        $("option", { value: k }, `${all[k].id} (${filter === "all" ? "" : `${matches(k)} of `}${all[k].turns.length})`)));
      dialogues.value = dialogue;
      if (!side) return;
      side.replaceChildren(...places.slice(0, LISTED).map((k) => {
        const button = $("button", { type: "button", "data-place": k }, all[k].id,
          $("small", {}, [all[k].split, plural(all[k].turns.length, "turn")].filter(Boolean).join(", ")));
        button.addEventListener("click", () => open(k));
        return button;
      }));
      if (places.length > LISTED) side.append($("p", { class: "note" }, `and ${places.length - LISTED} more: search for them`));
    }
    function draw(keep) {
      const places = listed(), all = turns(dialogue), one = set().dialogues[dialogue];
      shown = [];
      const items = [];
      let hidden = 0;
      const gap = () => { if (hidden) items.push($("li", { class: "gap" }, `… ${plural(hidden, "turn")} …`)); hidden = 0; };
      const speakers = [...new Set(all.map((turn) => turn.number))];
      for (const turn of places.length ? all : []) {
        if (!passes(turn)) { hidden++; continue; }
        gap();
        const item = bubble(turn, speakers.indexOf(turn.number) % 2);
        item.addEventListener("click", (event) => {
          if (!event.target.closest(".sources") && !String(getSelection())) select(shown.findIndex((s) => s.item === item), false);
        });
        shown.push({ turn, item });
        items.push(item);
      }
      gap();
      if (!places.length) items.push($("li", { class: "empty" }, "No dialogue holds these words."));
      else if (!shown.length) {
        const where = many ? "; n or p goes to the next dialogue that has one." : ".";
        items.unshift($("li", { class: "empty" }, `No turn of this dialogue is “${filter}”${where}`));
      }
      talk.replaceChildren(...items);
      const total = places.reduce((sum, k) => sum + matches(k), 0);
      const here = filter === "all" ? plural(all.length, "turn") : `${shown.length} of ${all.length} turns`;
      count.textContent = side ? `${places.length} of ${plural(set().dialogues.length, "dialogue")}`
        : many ? `${here} here, ${total} in ${words() ? "these" : "all"} dialogues` : here;
      title.textContent = places.length ? one.id : "";
      about.textContent = places.length ? [one.split && `split ${one.split}`, one.session && `session ${one.session}`,
        plural(all.length, "turn"), plural(speakers.length, "speaker")].filter(Boolean).join(", ") : "";
      back.disabled = next.disabled = places.length < 2;
      for (const button of side ? side.querySelectorAll("button") : []) {
        const here = Number(button.dataset.place) === dialogue;
        if (here) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
        const top = button.offsetTop - side.offsetTop;
        if (here && (top < side.scrollTop || top + button.offsetHeight > side.scrollTop + side.clientHeight)) side.scrollTop = top - side.clientHeight / 2;
      }
      current = null;
      if (shown.length && predicted) select(Math.max(0, keep === undefined ? 0 : shown.findIndex((s) => s.turn.index >= keep)), false);
    }
    function marked(text) {
      const low = text.toLowerCase(), wanted = words(), parts = [];
      let from = 0;
      // Lower case may change the length of a text; then nothing is marked rather than the wrong words.
      for (let to; wanted && low.length === text.length && (to = low.indexOf(wanted, from)) >= 0; from = to + wanted.length) {
        parts.push(text.slice(from, to), $("mark", {}, text.slice(to, to + wanted.length)));
      }
      return [...parts, text.slice(from)];
    }
    function bubble(turn, right) {
      const classes = set().classes, colours = data.colours;
      const mark = ["helped", "harmed", "failed"].filter((name) => turn[name]);
      const who = $("div", { class: "who" }, $("b", {}, turn.speaker), `#${turn.index + 1}`,
        gold || !predicted ? $("span", {}, turn.id) : null,
        ...mark.map((name) => $("span", { class: `mark-${name}` }, SIGNS[name])),
        turn.changed && !turn.helped && !turn.harmed ? $("span", {}, "◇ changed") : null,
        gold || !turn.scores ? null
          : $("span", { class: "scores" }, DIMENSIONS.map((name, k) => `${name} ${turn.scores[k].toFixed(1)}`).join(" · ")));
      const chip = (kind, ...content) => $("span", { class: `chip ${kind}` }, ...content);
      const said = (name, p) => `${name} ${classes[top(p)]} ${percent(Math.max(...p))}`;
      const likely = (p) => classes.map((_, k) => k).sort((a, b) => p[b] - p[a]).slice(0, 3)
        .map((k, place) => chip(place ? "" : "best", `${classes[k]} ${percent(p[k])}`));
      const facts = predicted ? [
        gold ? chip("gold", turn.label >= 0 ? `gold ${classes[turn.label]}` : "no gold label") : null,
        ...(gold || refined ? [chip("vanilla", said("vanilla", turn.vanilla))] : likely(turn.vanilla)),
        ...turn.fields.map((f) => f.failure ? chip("bad", `band ${f.band} ✕ ${f.failure}`)
          : f.probabilities ? chip("field", said(`band ${f.band}`, f.probabilities)) : null),
        turn.merged ? chip("merged", said("merged", turn.merged)) : null,
      ] : [
        turn.label < 0 ? chip("", "no label")
          : chip("label", $("i", { style: { background: colours[turn.label] } }), classes[turn.label]),
        turn.gold ? $("span", { title: DIMENSIONS.join(", ") },
          DIMENSIONS.map((name, k) => `${name[0].toUpperCase()} ${turn.gold[k] === null ? "–" : turn.gold[k].toFixed(2)}`).join("  ")) : null,
        turn.times ? $("span", {}, turn.times) : null,
        ...data.modalities.map((name, bit) => turn.missing & (1 << bit) ? $("span", { class: "mark-failed" }, `no ${name} features`) : null),
      ];
      const text = turn.text === null ? null : $("p", { class: "words" }, ...(turn.text ? marked(turn.text) : [$("i", {}, "no words")]));
      const item = $("li", { class: `turn ${right ? "right" : "left"} ${predicted ? mark[0] || "" : "plain"}`, "data-index": turn.index,
        style: predicted ? {} : { "--speaker": `hsl(${(210 + 67 * turn.number) % 360} 45% 55%)` } }, who,
        text, $("div", { class: "chips" }, ...facts));
      if (whole) item.append(sources(turn));
      return item;
    }
    function sources(turn) {
      const classes = set().classes;
      const part = (kind, title, small, p, weight) => $("div", { class: `source ${kind}` },
        refined ? $("h5", {}, title, $("small", {}, small)) : null,
        !refined ? null : weight === null ? $("div", { class: "weight none" })
          : $("div", { class: "weight", style: { "--v": weight }, title: `weight ${weight.toFixed(2)}` }),
        ...(p ? p.map((v, k) => $("div", { class: `prob${k === turn.label ? " is-gold" : ""}` },
          $("span", { title: classes[k] }, (k === turn.label ? "★ " : "") + classes[k]), $("i", { style: { "--v": v } }), $("span", {}, percent(v)))) : []));
      const weight = (k) => (turn.weights ? turn.weights[k] : null);
      const share = (k) => (turn.weights ? ` · ${turn.weights[k].toFixed(2)}` : "");
      const box = $("div", { class: "sources" }, part("vanilla", `vanilla${share(0)}`, "of this turn", turn.vanilla, weight(0)),
        ...turn.fields.map((f) => {
          const from = turn.index - f.position + 1;
          const where = `turns ${from}–${from + f.length - 1}${f.repaired ? ", repaired" : ""}`;
          return part("field", `band ${f.band}${f.failure ? ` ✕ ${f.failure}` : share(f.band + 1)}`, where, f.probabilities,
            f.failure ? null : weight(f.band + 1));
        }),
        turn.merged ? part("merged", "merged", "by the weights", turn.merged, null) : null);
      const number = (v) => (v === null ? "–" : v.toFixed(1));
      if (gold && (turn.scores || turn.gold)) {
        const rows = DIMENSIONS.map((name, k) => $("div", {},
          `${name} ${turn.scores ? number(turn.scores[k]) : "–"}${turn.gold ? ` (gold ${number(turn.gold[k])})` : ""}`));
        box.append($("div", { class: "source" }, $("h5", {}, "scores"), ...rows));
      }
      return box;
    }
    function select(place, move = true) {
      if (!shown.length) return;
      place = Math.min(Math.max(place, 0), shown.length - 1);
      if (current !== null && shown[current]) {
        const old = shown[current].item;
        old.removeAttribute("aria-current");
        if (!whole) old.querySelector(".sources")?.remove();
      }
      current = place;
      const { item, turn } = shown[place];
      item.setAttribute("aria-current", "true");
      if (!item.querySelector(".sources")) item.append(sources(turn));
      if (move) item.scrollIntoView({ block: "nearest" });
    }
    function open(place) {
      dialogue = place;
      dialogues.value = dialogue;
      if (side) history.replaceState(null, "", `#${encodeURIComponent(set().dialogues[place].id)}`);
      draw();
    }
    function go(step) {
      const places = listed(), here = places.indexOf(dialogue);
      for (let k = 1; k <= places.length; k++) {
        const place = places[(here + step * k + places.length * k) % places.length];
        if (matches(place)) { open(place); break; }
      }
      root.scrollIntoView({ block: "start" });
    }
    function choose(name) {
      const keep = current === null ? undefined : shown[current].turn.index;
      filter = name;
      buttons.forEach((b) => b.setAttribute("aria-pressed", b.dataset.filter === name));
      list();
      draw(keep);
    }
    function all() {
      whole = !whole;
      expand.setAttribute("aria-pressed", whole);
      draw(current === null ? undefined : shown[current].turn.index);
    }
    runs.addEventListener("change", () => {
      const id = set().dialogues[dialogue].id;
      run = Number(runs.value);
      dialogue = Math.max(0, set().dialogues.findIndex((one) => one.id === id));
      list();
      draw();
    });
    dialogues.addEventListener("change", () => open(Number(dialogues.value)));
    search.addEventListener("input", () => { list(); draw(); });
    split.addEventListener("change", () => { list(); draw(); });
    back.addEventListener("click", () => go(-1));
    next.addEventListener("click", () => go(1));
    buttons.forEach((b) => b.addEventListener("click", () => choose(b.dataset.filter)));
    expand.addEventListener("click", all);
    // Arrows scroll the page until a turn is in sight, as on any page.
    const inSight = () => { const box = root.getBoundingClientRect(); return box.top < innerHeight * 0.6 && box.bottom > 0; };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea") || !inSight()) return;
      const here = current === null ? -1 : current;
      const [forward, backward] = [() => go(1), () => go(-1)], [down, up] = [() => select(here + 1), () => select(here - 1)];
      const acts = { n: forward, p: backward, ArrowRight: forward, ArrowLeft: backward };
      if (predicted) Object.assign(acts, { j: down, k: up, ArrowDown: down, ArrowUp: up, x: all,
        f: () => choose(filters[(filters.indexOf(filter) + 1) % filters.length]) });
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
    if (side) {
      let wanted = "";
      try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { /* not an id */ }
      dialogue = Math.max(0, set().dialogues.findIndex((one) => one.id === wanted));
    }
    list();
    draw();
  }
  const embedded = document.getElementById("reader-data");
  if (embedded) {
    const data = JSON.parse(embedded.textContent);
    const root = document.querySelector(".reader");
    if (!data.runs.length || !data.sets.some((set) => set.dialogues.length)) root.append($("p", { class: "empty" }, "There are no turns to show."));
    else reader(root, data);
  }
})();
