"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click on a column's name sorts by it, another turns the order around.  What has no figure stays last.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!("sort" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  for (const button of all("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = button.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a)));
      body.append(...rows.map(([, row]) => row));
    });
  }

  // Filters: whatever says which training, network or method it is about is shown or not.
  const filters = document.getElementById("filters");
  const filter = () => {
    const modes = new Set(all("input[name=mode]:checked", filters).map((box) => box.value));
    const chosen = { network: filters.network.value, method: filters.method.value };
    for (const element of all("[data-mode]")) {
      const own = element.dataset;
      const fits = (name) => !chosen[name] || !(name in own) || own[name] === chosen[name];
      element.classList.toggle("out", !modes.has(own.mode) || !fits("network") || !fits("method"));
    }
    for (const chart of all("#ladder .chart")) {
      chart.classList.toggle("out", all(".lane[data-mode]", chart).every((lane) => lane.classList.contains("out")));
      name(chart);
    }
    list();
  };
  // A method's name stands at the first of its lanes that is shown.
  const name = (chart) => {
    let method = "", said = "";
    for (const lane of all(".lane[data-mode]", chart)) {
      const label = lane.querySelector(".name");
      label.dataset.full = method = label.dataset.full ?? (label.textContent || method);
      if (lane.classList.contains("out")) continue;
      label.textContent = method === said ? "" : method;
      lane.classList.toggle("starts", method !== said);
      said = method;
    }
  };

  // The ladder: gaps to the barrier or to the attack.
  for (const radio of all("#target input")) {
    radio.addEventListener("change", () => {
      for (const chart of all("#ladder .chart")) chart.hidden = chart.dataset.target !== radio.value;
    });
  }

  // What a mark means, at the pointer or at the mark that has the focus.
  const tip = document.getElementById("tip");
  const show = (event) => {
    const mark = event.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const x = event.clientX ?? at.left + at.width / 2;
    tip.style.left = `${Math.max(6, Math.min(x + 12, innerWidth - own.width - 6))}px`;
    tip.style.top = `${at.top > own.height + 10 ? at.top - own.height - 6 : at.bottom + 6}px`;
  };
  for (const kind of ["pointermove", "focusin", "click"]) document.addEventListener(kind, show);
  document.addEventListener("focusout", () => { tip.hidden = true; });

  // One question's story.
  const data = document.getElementById("stories");
  const stories = data ? JSON.parse(data.textContent) : [];
  const question = document.getElementById("question"), ending = document.getElementById("ending"), told = document.getElementById("told");
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const drawn = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    return element;
  };
  const digits = (value) => value.toPrecision(3).replace("-", "−");
  const lanes = (values) => {
    const box = make("div", "", "lanes");
    // Values far below the others are cut, so that these can be told apart.
    const sorted = values.map(([, value]) => value).sort((a, b) => a - b);
    const top = Math.max(0, sorted.at(-1)), middle = sorted[Math.floor((sorted.length - 1) / 2)];
    const low = Math.min(0, Math.max(sorted[0], top - 3 * Math.max(top - middle, 1e-9)));
    const span = Math.max(top - low, 1e-9) * 1.06;
    const at = (value) => Math.max(0, Math.min(100, (100 * (value - low + 0.03 * span)) / span));
    for (const [name, value, kind] of values) {
      const lane = make("div", "", "lane");
      const svg = drawn("svg", { height: 18 });
      const [from, to] = [Math.min(at(0), at(value)), Math.max(at(0), at(value))];
      const proves = kind !== "attack" && kind !== "ceiling" && value > 0;
      svg.append(
        drawn("rect", { x: `${from}%`, width: `${Math.max(to - from, 0.4)}%`, y: 3, height: 12, rx: 2, class: `bar ${kind}${proves ? " proves" : ""}` }),
        drawn("line", { x1: `${at(0)}%`, x2: `${at(0)}%`, y1: 0, y2: 18, class: "zero" }),
      );
      lane.append(make("span", name, "name"), make("span", `${value < low ? "◂ " : ""}${digits(value)}`, "note"), svg);
      box.append(lane);
    }
    box.append(make("p", "lower bound of the least margin, bars from 0: right of it, the class is proved to be kept", "axis-title"));
    return box;
  };
  const tell = () => {
    const story = stories[question.value];
    told.replaceChildren();
    told.className = story ? story.ending : "";
    if (!story) return told.append(make("p", "No question fits."));
    told.append(make("h3", story.answer), make("p", `${story.network}: ${story.name}`, "asked"));
    for (const sentence of story.sentences) told.append(make("p", sentence));
    if (story.values.length) told.append(lanes(story.values));
  };
  const list = () => {
    if (!question) return;
    const modes = new Set(all("input[name=mode]:checked", filters).map((box) => box.value));
    const network = filters.network.value, wanted = ending.value, before = question.value;
    const fits = (s) => modes.has(s.mode) && (!network || s.network === network) && (!wanted || s.ending === wanted);
    const groups = new Map(), options = [];
    stories.forEach((s, number) => {
      if (!fits(s)) return;
      if (!groups.has(s.word)) groups.set(s.word, Object.assign(make("optgroup"), { label: s.word }));
      options.push(new Option(`${s.network}: ${s.name}`, number));
      groups.get(s.word).append(options.at(-1));
    });
    question.replaceChildren(...groups.values());
    if (options.some((option) => option.value === before)) question.value = before;
    tell();
  };
  const step = (by) => {
    const next = question.selectedIndex + by;
    if (next >= 0 && next < question.length) { question.selectedIndex = next; tell(); }
  };
  if (question) {
    ending.addEventListener("change", list);
    question.addEventListener("change", tell);
    document.getElementById("previous").addEventListener("click", () => step(-1));
    document.getElementById("next").addEventListener("click", () => step(1));
  }
  filters.addEventListener("change", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
