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
          failure: state >= 2 ? run.kinds[state - 2] : null, asked: run.asked?.[run.field_of[place * run.t + band]] });
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
    // A large corpus comes in pieces, each read when a dialogue of it is wanted.
    const pieces = document.querySelectorAll("script.piece");
    const raw = (one) => {
      if (!one.turns) {
        const read = JSON.parse(pieces[one.piece].textContent);
        every.filter((other) => other.piece === one.piece).forEach((other, k) => { other.turns = read[k]; });
      }
      return one.turns;
    };
    const size = (one) => one.count ?? one.turns.length;
    const gold = data.gold ?? every.some((one) => one.turns.some((turn) => turn[4] >= 0));
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
    const label = $("select", { class: "label", "aria-label": "gold label" });
    const buttons = (refined ? filters : []).map((name) => $("button", { type: "button", "data-filter": name, "aria-pressed": name === "all" }, name));
    const expand = $("button", { type: "button", "aria-pressed": "false", class: "expand" }, "all bars");
    const [back, next] = [["previous", "←"], ["next", "→"]].map(([name, sign]) =>
      $("button", { type: "button", "aria-label": `${name} dialogue` }, sign));
    const count = $("span", { class: "note count", role: "status" });
    const title = $("h3"), about = $("p", { class: "note" });
    const talk = $("ol", { class: "talk" }), time = $("div", { class: "timeline" });
    const key = (...names) => names.map((name) => $("kbd", {}, name));
    root.append(
      $("div", { class: "tools" }, data.runs.length > 1 ? $("label", {}, "run ", runs) : null,
        many && !side ? $("label", {}, "dialogue ", dialogues) : null, many ? search : null, splits.length ? split : null, gold ? label : null,
        side ? count : null),
      side ? "" : $("div", { class: "tools", role: "group", "aria-label": "filter" }, ...buttons, expand, count),
      $("p", { class: "help" }, ...(predicted ? [...key("j", "k"), " or ", ...key("↓", "↑"), " turns · "] : []),
        ...(many ? [...key("n", "p"), " or ", ...key("→", "←"), " dialogues"] : []), ...(many && predicted ? [" · "] : []),
        ...(refined ? [...key("f"), " filter · "] : []), ...(predicted ? [...key("x"), " all bars"] : [])),
      side ? $("div", { class: "beside" }, side, $("div", {}, $("div", { class: "move" }, back, title, next), about, time, talk)) : $("div", {}, time, talk));
    const set = () => data.sets[data.runs[run].set];
    const cache = new Map();
    const turns = (place) => {
      const name = `${run}/${place}`;
      if (!cache.has(name)) cache.set(name, raw(set().dialogues[place]).map((turn) => unpack(data.runs[run], set(), turn)));
      return cache.get(name);
    };
    const words = () => search.value.trim().toLowerCase();
    const haystack = new Map();
    const holds = (one) => {
      if (!haystack.has(one)) {
        const said = raw(one).map((turn) => [turn[2], set().speakers[turn[3]], turn[6]].join("\n"));
        haystack.set(one, [one.id, one.session, ...said].join("\n").toLowerCase());
      }
      return haystack.get(one).includes(words());
    };
    const named = () => label.selectedIndex - 1;  // the gold label that is looked for, below 0 for any
    const passes = (turn) => (filter === "all" || turn[filter]) && (named() < 0 || turn.label === named());
    const matches = (place) => turns(place).filter(passes).length;
    const listed = () => set().dialogues.map((_, place) => place).filter((place) => {
      const one = set().dialogues[place];
      return (!split.selectedIndex || one.split === splits[split.selectedIndex - 1]) && (!words() || holds(one))
        && (predicted || named() < 0 || matches(place));
    });

    function list() {
      const places = listed(), all = set().dialogues;
      if (!places.includes(dialogue)) dialogue = places.length ? places[0] : 0;
      dialogues.replaceChildren(...places.map((k) =>
        $("option", { value: k }, `${all[k].id} (${filter === "all" && named() < 0 ? "" : `${matches(k)} of `}${size(all[k])})`)));
      dialogues.value = dialogue;
      if (!side) return;
      side.replaceChildren(...places.slice(0, LISTED).map((k) => {
        const button = $("button", { type: "button", "data-place": k }, all[k].id,
          $("small", {}, [all[k].split, plural(size(all[k]), "turn")].filter(Boolean).join(", ")));
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
        const wanted = [filter === "all" ? "" : filter, named() < 0 ? "" : set().classes[named()]].filter(Boolean).join(", ");
        items.unshift($("li", { class: "empty" }, `No turn of this dialogue is “${wanted}”${where}`));
      }
      talk.replaceChildren(...items);
      time.replaceChildren(...(places.length ? timeline(all) : []));
      const total = places.reduce((sum, k) => sum + matches(k), 0);
      const here = filter === "all" && named() < 0 ? plural(all.length, "turn") : `${shown.length} of ${all.length} turns`;
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
    // a column per turn, a row per source: gold, vanilla, merged
    function timeline(all) {
      const classes = set().classes;
      const rows = [["gold", (turn) => turn.label], ["vanilla", (turn) => (turn.vanilla ? top(turn.vanilla) : -1)],
        ["merged", (turn) => (turn.merged ? top(turn.merged) : -1)]]
        .filter(([name, read]) => (name !== "gold" || gold) && all.some((turn) => read(turn) >= 0));
      const used = new Set();
      const drawn = rows.map(([name, read]) => $("div", { class: "times" }, $("span", {}, name), $("div", {}, ...all.map((turn, k) => {
        const value = read(turn);
        if (value >= 0) used.add(value);
        const wrong = name !== "gold" && turn.label >= 0 && value !== turn.label;
        const cell = $("i", { class: `${value < 0 ? "none" : ""}${wrong ? " wrong" : ""}`, "data-turn": k, style: value < 0 ? {} : { "background-color": data.colours[value] },
          title: `#${turn.index + 1} ${name}: ${value < 0 ? "none" : classes[value]}${wrong ? `, gold ${classes[turn.label]}` : ""}` });
        cell.addEventListener("click", () => {
          const place = shown.findIndex((one) => one.turn === turn);
          if (predicted) select(place); else shown[place]?.item.scrollIntoView({ block: "center" });
        });
        return cell;
      }))));
      const legend = [...used].sort((a, b) => a - b).map((k) => $("span", {}, $("i", { style: { "background-color": data.colours[k] } }), classes[k]));
      return drawn.length ? [...drawn, $("p", { class: "key" }, ...legend, rows.length > 1 && gold ? $("span", {}, $("i", { class: "wrong" }), "not the gold label") : null)] : [];
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
      const who = $("div", { class: "who" }, $("b", {}, turn.speaker), $("a", { href: address(turn), title: "link to this turn" }, `#${turn.index + 1}`),
        gold || !predicted ? $("span", {}, turn.id) : null,
        ...mark.map((name) => $("span", { class: `mark-${name}` }, SIGNS[name])),
        turn.changed && !turn.helped && !turn.harmed ? $("span", {}, "◇ changed") : null,
        gold || !turn.scores ? null
          : $("span", { class: "scores" }, DIMENSIONS.map((name, k) => `${name} ${turn.scores[k].toFixed(1)}`).join(" · ")));
      const chip = (kind, ...content) => $("span", { class: `chip ${kind}` }, ...content);
      const said = (name, p) => `${name} ${classes[top(p)]} ${percent(Math.max(...p))}`;
      const sign = (p) => (turn.label < 0 ? "" : top(p) === turn.label ? " ✓" : " ✗");
      const likely = (p) => classes.map((_, k) => k).sort((a, b) => p[b] - p[a]).slice(0, 3)
        .map((k, place) => chip(place ? "" : "best", `${classes[k]} ${percent(p[k])}`));
      const facts = predicted ? [
        gold ? chip("gold", turn.label >= 0 ? `gold ${classes[turn.label]}` : "no gold label") : null,
        ...(gold || refined ? [chip("vanilla", said("vanilla", turn.vanilla) + sign(turn.vanilla))] : likely(turn.vanilla)),
        turn.merged ? chip("merged", said("merged", turn.merged) + sign(turn.merged)) : null,
        ...turn.fields.map((f) => f.failure ? chip("bad", `band ${f.band} ✕ ${f.failure}`)
          : f.probabilities ? chip("field", said(`band ${f.band}`, f.probabilities)) : null),
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
      box.append(...turn.fields.filter((f) => f.asked?.length).map((f) => exchange(f)));
      return box;
    }
    // what a field was asked and what came back, drawn when it is unfolded
    function exchange(f) {
      const sum = (read) => f.asked.reduce((total, one) => total + read(one), 0);
      const facts = [`${sum((one) => one.tokens[0])} + ${sum((one) => one.tokens[1])} tokens`, `${sum((one) => one.seconds).toFixed(1)} s`,
        f.asked.every((one) => one.cost !== null) ? (sum((one) => one.cost) ? `$${Number(sum((one) => one.cost).toPrecision(2))}` : "free") : "price unknown"];
      const turns = f.asked.filter((one) => one.repair).length;
      if (turns) facts.push(plural(turns, "repair turn"));
      const fold = $("details", { class: "asked" }, $("summary", {}, `prompt and reply of band ${f.band} · ${facts.join(" · ")}`));
      fold.addEventListener("toggle", () => {
        if (fold.children.length > 1) return;
        for (const one of f.asked) {
          if (one.repair) fold.append($("h5", {}, "repair turn"));
          for (const [role, lines] of one.messages) fold.append($("h5", {}, role), $("pre", {}, lines.map((k) => data.lines[k]).join("\n")));
          fold.append($("h5", {}, `reply${one.model ? ` of ${one.model}` : ""}${one.failure ? ` ✕ ${one.failure}` : ""}`), $("pre", { class: "reply" }, one.reply));
        }
      });
      return fold;
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
      time.querySelector(".here")?.classList.remove("here");
      time.querySelector(`[data-turn="${turns(dialogue).indexOf(turn)}"]`)?.classList.add("here");
      if (move) history.replaceState(null, "", address(turn));
      if (!item.querySelector(".sources")) item.append(sources(turn));
      if (move) item.scrollIntoView({ block: "nearest" });
    }
    // #run/dialogue/turn; on the page of a corpus #dialogue/turn
    function address(turn) {
      const parts = [...(predicted ? [data.runs[run].id] : []), set().dialogues[dialogue].id, ...(turn ? [turn.index + 1] : [])];
      return `#${parts.map(encodeURIComponent).join("/")}`;
    }
    function follow() {
      let parts;
      try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { return false; /* not an address */ }
      const name = predicted ? parts.shift() : null;
      const from = predicted ? data.runs.findIndex((one) => one.id === name) : 0;
      const place = from < 0 ? -1 : data.sets[data.runs[from].set].dialogues.findIndex((one) => one.id === parts[0]);
      if (place < 0) return false;
      [run, dialogue, filter] = [from, place, "all"];
      runs.value = run;
      [search.value, split.selectedIndex, label.selectedIndex] = ["", 0, 0];
      press();
      list();
      draw(Number(parts[1]) - 1 || 0);
      const wanted = parts[1] && shown.find((one) => one.turn.index === Number(parts[1]) - 1);
      (wanted ? wanted.item : root).scrollIntoView({ block: wanted ? "center" : "start" });
      return true;
    }
    const press = () => buttons.forEach((b) => b.setAttribute("aria-pressed", b.dataset.filter === filter));
    function open(place) {
      dialogue = place;
      dialogues.value = dialogue;
      history.replaceState(null, "", address());
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
      press();
      narrow(keep);
    }
    // show what passes; where this dialogue has nothing, the next one that has
    function narrow(keep) {
      list();
      const places = listed(), here = places.indexOf(dialogue);
      const next = [...places.slice(Math.max(here, 0)), ...places.slice(0, Math.max(here, 0))].find((place) => matches(place));
      const moved = next !== undefined && next !== dialogue;
      if (moved) { dialogue = next; dialogues.value = dialogue; }
      draw(moved ? undefined : keep);
      const first = current === null ? talk.firstElementChild : shown[current].item;
      if (filter !== "all" || named() >= 0) first?.scrollIntoView({ block: "center" });
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
      labels();
      narrow();
    });
    const labels = () => label.replaceChildren($("option", {}, "all labels"), ...set().classes.map((name) => $("option", {}, name)));
    label.addEventListener("change", () => narrow());
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
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, input, textarea, [contenteditable]")) return;
      const here = current === null ? -1 : current;
      const [forward, backward] = [() => go(1), () => go(-1)], [down, up] = [() => select(here + 1), () => select(here - 1)];
      if (event.key.startsWith("Arrow") && !inSight()) return;
      const acts = { n: forward, p: backward, ArrowRight: forward, ArrowLeft: backward };
      if (predicted) Object.assign(acts, { j: down, k: up, ArrowDown: down, ArrowUp: up, x: all,
        f: () => choose(filters[(filters.indexOf(filter) + 1) % filters.length]) });
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
    addEventListener("hashchange", follow);
    labels();
    if (!follow()) { list(); draw(); }
  }
  const embedded = document.getElementById("reader-data");
  if (embedded) {
    const data = JSON.parse(embedded.textContent);
    const root = document.querySelector(".reader");
    if (!data.runs.length || !data.sets.some((set) => set.dialogues.length)) root.append($("p", { class: "empty" }, "There are no turns to show."));
    else reader(root, data);
  }
})();
