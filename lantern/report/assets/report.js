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

  // packed numbers: see lantern/report/reader.py
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const VALUE = Object.fromEntries([...ALPHABET].map((sign, place) => [sign, place]));
  const NOTHING = 4095;

  const unpack = (run, set, turn) => {
    const C = set.classes.length;
    let at = turn[0] * run.width;
    const next = () => { const v = 64 * VALUE[run.rows[at]] + VALUE[run.rows[at + 1]]; at += 2; return v; };
    const vector = (count) => {
      const values = Array.from({ length: count }, next);
      return values.includes(NOTHING) ? null : values.map((v) => v / 1000);
    };
    const vanilla = vector(C);
    let scores = null;
    if (run.scores) {
      const values = [next(), next(), next()];
      scores = values.includes(NOTHING) ? null : values.map((v) => v / 100 - 20);
    }
    const fields = [];
    for (let band = 0; band < run.t; band++) {
      const [state, length, position] = [next(), next(), next()];
      const probabilities = vector(C);
      if (state !== NOTHING) {
        fields.push({ band, length, position, probabilities, repaired: state === 1,
          failure: state >= 2 ? run.kinds[state - 2] : null });
      }
    }
    const weights = run.t ? vector(run.t + 1) : null;
    const merged = vector(C);
    const [, index, id, speaker, label, gold, text] = turn;
    const final = merged || vanilla;
    const first = top(vanilla), then = top(final);
    return { index, id, speaker: set.speakers[speaker], side: speaker % 2, label, gold, text, vanilla, scores, fields,
      weights, merged, first, then, changed: first !== then,
      helped: label >= 0 && first !== label && then === label,
      harmed: label >= 0 && first === label && then !== label,
      failed: fields.some((field) => field.failure) };
  };
  const top = (p) => p.reduce((best, v, k) => (v > p[best] ? k : best), 0);
  const percent = (value) => String(Math.round(100 * value));
  const DIMENSIONS = ["valence", "arousal", "dominance"];
  const SIGNS = { helped: "▲ helped", harmed: "▼ harmed", failed: "✕ failed" };

  function reader(root, data) {
    let run = 0, dialogue = 0, filter = "all", whole = false, current = null;
    // Somebody's own conversation has no gold labels, and often neither LLM, other runs nor other dialogues.
    const gold = data.sets.some((set) => set.dialogues.some((one) => one.turns.some((turn) => turn[4] >= 0)));
    const asked = data.runs.some((one) => one.t);
    const many = data.sets.some((set) => set.dialogues.length > 1);
    const filters = ["all", ...(gold && asked ? ["helped", "harmed"] : []), ...(asked ? ["failed", "changed"] : [])];
    const runs = $("select", { "aria-label": "run" });
    data.runs.forEach((one, k) => runs.append($("option", { value: k }, one.name)));
    const dialogues = $("select", { "aria-label": "dialogue" });
    const buttons = (asked ? filters : []).map((name) => $("button", { type: "button", "data-filter": name, "aria-pressed": name === "all" }, name));
    const expand = $("button", { type: "button", "aria-pressed": "false", class: "expand" }, "all bars");
    const count = $("span", { class: "note count", role: "status" });
    const talk = $("ol", { class: "talk" });
    const key = (...names) => names.map((name) => $("kbd", {}, name));
    root.append(
      $("div", { class: "tools" }, data.runs.length > 1 ? $("label", {}, "run ", runs) : null,
        many ? $("label", {}, "dialogue ", dialogues) : null),
      $("div", { class: "tools", role: "group", "aria-label": "filter" }, ...buttons, expand, count),
      $("p", { class: "help" }, ...key("j", "k"), " or ", ...key("↓", "↑"), " turns · ",
        ...(many ? [...key("n", "p"), " dialogues · "] : []), ...(asked ? [...key("f"), " filter · "] : []), ...key("x"), " all bars"),
      talk);
    let shown = [];
    const set = () => data.sets[data.runs[run].set];
    const cache = new Map();
    const turns = (place) => {
      const name = `${run}/${place}`;
      if (!cache.has(name)) cache.set(name, set().dialogues[place].turns.map((turn) => unpack(data.runs[run], set(), turn)));
      return cache.get(name);
    };
    const passes = (turn) => filter === "all" || turn[filter];
    const matches = (place) => turns(place).filter(passes).length;

    function list() {
      dialogues.replaceChildren(...set().dialogues.map((one, k) => {
        const many = matches(k), all = one.turns.length;
        return $("option", { value: k }, `${one.id} (${filter === "all" ? all : `${many} of ${all}`})`);
      }));
      if (dialogue >= set().dialogues.length) dialogue = 0;
      dialogues.value = dialogue;
    }
    function draw(keep) {
      const all = turns(dialogue);
      shown = [];
      const items = [];
      let hidden = 0;
      const gap = () => { if (hidden) items.push($("li", { class: "gap" }, `… ${hidden} ${hidden === 1 ? "turn" : "turns"} …`)); hidden = 0; };
      for (const turn of all) {
        if (!passes(turn)) { hidden++; continue; }
        gap();
        const item = bubble(turn);
        item.addEventListener("click", (event) => {
          if (!event.target.closest(".sources") && !String(getSelection())) select(shown.findIndex((s) => s.item === item), false);
        });
        shown.push({ turn, item });
        items.push(item);
      }
      gap();
      if (!shown.length) {
        const where = many ? "; n or p goes to the next dialogue that has one." : ".";
        items.unshift($("li", { class: "empty" }, `No turn of this dialogue is “${filter}”${where}`));
      }
      talk.replaceChildren(...items);
      const total = set().dialogues.reduce((sum, _, k) => sum + matches(k), 0);
      const here = filter === "all" ? `${all.length} ${all.length === 1 ? "turn" : "turns"}` : `${shown.length} of ${all.length} turns`;
      count.textContent = many ? `${here} here, ${total} in all dialogues` : here;
      current = null;
      if (shown.length) select(Math.max(0, keep === undefined ? 0 : shown.findIndex((s) => s.turn.index >= keep)), false);
    }
    function bubble(turn) {
      const classes = set().classes;
      const mark = ["helped", "harmed", "failed"].filter((name) => turn[name]);
      const who = $("div", { class: "who" }, $("b", {}, turn.speaker), `#${turn.index + 1}`, gold ? $("span", {}, turn.id) : null,
        ...mark.map((name) => $("span", { class: `mark-${name}` }, SIGNS[name])),
        turn.changed && !turn.helped && !turn.harmed ? $("span", {}, "◇ changed") : null,
        gold || !turn.scores ? null
          : $("span", { class: "scores" }, DIMENSIONS.map((name, k) => `${name} ${turn.scores[k].toFixed(1)}`).join(" · ")));
      const chip = (kind, text) => $("span", { class: `chip ${kind}` }, text);
      const said = (name, p) => `${name} ${classes[top(p)]} ${percent(Math.max(...p))}`;
      const likely = (p) => classes.map((_, k) => k).sort((a, b) => p[b] - p[a]).slice(0, 3)
        .map((k, place) => chip(place ? "" : "best", `${classes[k]} ${percent(p[k])}`));
      const chips = $("div", { class: "chips" },
        gold ? chip("gold", turn.label >= 0 ? `gold ${classes[turn.label]}` : "no gold label") : null,
        ...(gold || asked ? [chip("vanilla", said("vanilla", turn.vanilla))] : likely(turn.vanilla)),
        ...turn.fields.map((f) => f.failure ? chip("bad", `band ${f.band} ✕ ${f.failure}`)
          : f.probabilities ? chip("field", said(`band ${f.band}`, f.probabilities)) : null),
        turn.merged ? chip("merged", said("merged", turn.merged)) : null);
      const first = mark[0] || "";
      const item = $("li", { class: `turn ${turn.side ? "right" : "left"} ${first}`, "data-index": turn.index }, who,
        turn.text === null || turn.text === undefined ? null : $("p", { class: "words" }, turn.text), chips);
      if (whole) item.append(sources(turn));
      return item;
    }
    function sources(turn) {
      const classes = set().classes;
      const part = (kind, title, small, p, weight) => $("div", { class: `source ${kind}` },
        asked ? $("h5", {}, title, $("small", {}, small)) : null,
        !asked ? null : weight === null ? $("div", { class: "weight none" })
          : $("div", { class: "weight", style: { "--v": weight }, title: `weight ${weight.toFixed(2)}` }),
        ...(p ? p.map((v, k) => $("div", { class: `prob${k === turn.label ? " is-gold" : ""}` },
          $("span", { title: classes[k] }, (k === turn.label ? "★ " : "") + classes[k]), $("i", { style: { "--v": v } }), $("span", {}, percent(v)))) : []));
      const weight = (k) => (turn.weights ? turn.weights[k] : null);
      const told = (k) => (turn.weights ? ` · ${turn.weights[k].toFixed(2)}` : "");
      const box = $("div", { class: "sources" }, part("vanilla", `vanilla${told(0)}`, "of this turn", turn.vanilla, weight(0)),
        ...turn.fields.map((f) => {
          const from = turn.index - f.position + 1;
          const where = `turns ${from}–${from + f.length - 1}${f.repaired ? ", repaired" : ""}`;
          return part("field", `band ${f.band}${f.failure ? ` ✕ ${f.failure}` : told(f.band + 1)}`, where, f.probabilities,
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
    function go(step) {
      const all = set().dialogues.length;
      for (let k = 1; k <= all; k++) {
        const place = (dialogue + step * k + all * k) % all;
        if (matches(place)) { dialogue = place; break; }
      }
      dialogues.value = dialogue;
      draw();
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
    dialogues.addEventListener("change", () => { dialogue = Number(dialogues.value); draw(); });
    buttons.forEach((b) => b.addEventListener("click", () => choose(b.dataset.filter)));
    expand.addEventListener("click", all);
    // Arrows are the page's own until a turn is in sight: a report must scroll as any page does.
    const inSight = () => { const box = root.getBoundingClientRect(); return box.top < innerHeight * 0.6 && box.bottom > 0; };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea") || !inSight()) return;
      const here = current === null ? -1 : current;
      const acts = { j: () => select(here + 1), k: () => select(here - 1), ArrowDown: () => select(here + 1),
        ArrowUp: () => select(here - 1), n: () => go(1), p: () => go(-1), x: all,
        f: () => choose(filters[(filters.indexOf(filter) + 1) % filters.length]) };
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
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
