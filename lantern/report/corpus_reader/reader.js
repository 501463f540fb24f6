"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const LIMIT = 3000;
  const search = at("search"), split = at("split"), list = at("list"), turns = at("turns");
  let shown = [], current = null;

  const make = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const fold = (text) => text.toLowerCase();
  let index = null;
  const haystack = (n) => {
    index = index || data.dialogues.map((d) =>
      fold([d[0], d[2], ...d[3], ...d[4].map((t) => t[0] + "\n" + t[2])].join("\n")));
    return index[n];
  };

  const names = [...new Set(data.dialogues.map((d) => d[1]))];
  for (const name of ["all splits", ...names.map((n) => n || "in no split")]) split.append(new Option(name));

  function filter() {
    const words = fold(search.value.trim());
    const part = split.selectedIndex ? names[split.selectedIndex - 1] : null;
    shown = [];
    data.dialogues.forEach((d, n) => {
      if ((part === null || d[1] === part) && (!words || haystack(n).includes(words))) shown.push(n);
    });
    list.replaceChildren();
    for (const n of shown.slice(0, LIMIT)) list.append(entry(n));
    if (shown.length > LIMIT) list.append(make("p", `and ${shown.length - LIMIT} more: search for them`, "dim"));
    at("found").textContent = `${shown.length} of ${data.dialogues.length}`;
    if (shown.length && !shown.includes(current)) open(shown[0], false); else open(current, false);
  }

  function entry(n) {
    const d = data.dialogues[n];
    const button = make("button", d[0]);
    button.type = "button";
    button.dataset.n = n;
    button.append(make("small", [d[1], `${d[4].length} turns`].filter(Boolean).join(", ")));
    button.addEventListener("click", () => open(n, true));
    return button;
  }

  function marked(text, words) {
    const part = document.createDocumentFragment();
    const low = fold(text);
    let from = 0;
    // Folding may change a text's length; then nothing is marked rather than the wrong thing.
    if (words && low.length === text.length) {
      for (let to = low.indexOf(words); to >= 0; to = low.indexOf(words, from)) {
        part.append(text.slice(from, to), make("mark", text.slice(to, to + words.length)));
        from = to + words.length;
      }
    }
    part.append(text.slice(from));
    return part;
  }

  function turn(t, speakers, words) {
    const [id, speaker, text, label, scores, times, missing] = t;
    const item = make("li", "", speaker % 2 ? "other" : "");
    item.style.setProperty("--speaker", `hsl(${(210 + 67 * speaker) % 360} 45% 55%)`);
    const who = make("div", "", "who");
    who.append(make("b", speakers[speaker]), make("span", id, "id"));
    const said = make("div", "", "words");
    if (text) said.append(marked(text, words)); else said.append(make("i", "no words", "dim"));
    const facts = make("div", "", "facts");
    const chip = make("span", "", label < 0 ? "label none" : "label");
    if (label >= 0) {
      const dot = make("i");
      dot.style.background = data.colours[label];
      chip.append(dot);
    }
    chip.append(label < 0 ? "no label" : data.classes[label]);
    facts.append(chip);
    if (scores) {
      const told = ["V", "A", "D"].map((d, n) => `${d} ${scores[n] === null ? "-" : scores[n].toFixed(2)}`).join("  ");
      const span = make("span", told);
      span.title = "valence, arousal, dominance";
      facts.append(span);
    }
    if (times) facts.append(make("span", times));
    data.modalities.forEach((name, bit) => {
      if (missing & (1 << bit)) facts.append(make("span", `no ${name} features`, "gone"));
    });
    item.append(who, said, facts);
    return item;
  }

  function open(n, asked) {
    current = n;
    for (const button of list.querySelectorAll("button")) {
      if (Number(button.dataset.n) === n) {
        button.setAttribute("aria-current", "true");
        const top = button.offsetTop - list.offsetTop;
        if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight) {
          list.scrollTop = top - list.clientHeight / 2;
        }
      } else button.removeAttribute("aria-current");
    }
    const place = shown.indexOf(n);
    at("back").disabled = place <= 0;
    at("next").disabled = place < 0 || place >= shown.length - 1;
    if (n === null) return;
    const d = data.dialogues[n];
    const words = fold(search.value.trim());
    at("name").textContent = d[0];
    at("about").textContent = [d[1] && `split ${d[1]}`, d[2] && `session ${d[2]}`, `${d[4].length} turns`,
      `${d[3].length} speakers`].filter(Boolean).join(", ");
    turns.replaceChildren(...d[4].map((t) => turn(t, d[3], words)));
    if (asked) history.replaceState(null, "", "#" + encodeURIComponent(d[0]));
  }

  function move(step) {
    const place = shown.indexOf(current) + step;
    if (place >= 0 && place < shown.length) open(shown[place], true);
  }

  search.addEventListener("input", filter);
  split.addEventListener("change", filter);
  at("back").addEventListener("click", () => move(-1));
  at("next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });

  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)); } catch (error) { wanted = ""; }
  const found = data.dialogues.findIndex((d) => d[0] === wanted);
  current = found >= 0 ? found : null;
  filter();
})();
