// The browser of examples: a list that is searched and filtered, and one prompt with its candidates side by side.

if (report.examples.length) {
  const byId = (id) => document.getElementById(id);
  const [query, category, model, status, found, list, view] = ["query", "category", "model", "status", "found", "list", "example"].map(byId);
  const NONE = "not named";
  const texts = (messages) => messages.map((message) => message.content).join("\n");
  const searched = report.examples.map((example) =>
    [example.id, texts(example.prompt), ...example.references.map(texts), ...example.candidates.flatMap((candidate) => [candidate.id, texts(candidate.messages)])].join("\n"));
  let shown = [];
  let current = 0;

  const options = (select, names, label = (name) => name) =>
    select.append(...[...names].map((name) => make("option", { value: name }, label(name))));
  const every = (of) => new Set(report.examples.flatMap((example) => example.candidates.flatMap(of)));
  options(category, Object.keys(report.settings.categories).filter((name) => report.examples.some((example) => example.categories.includes(name))), named);
  options(model, [...every((candidate) => [candidate.model ?? NONE])].sort());
  options(status, [...every((candidate) => candidate.scores.map((score) => score.status))].sort());

  function named(name) {
    return name.replaceAll("_", " ").replace("against label", "against labels");
  }

  /** The text that is searched for as a pattern; null if there is none. */
  function pattern() {
    const words = query.value.trim();
    return words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
  }

  function matches(candidate) {
    return (
      (!model.value || (candidate.model ?? NONE) === model.value) &&
      (!status.value || candidate.scores[scorerShown].status === status.value)
    );
  }

  function filter() {
    const words = pattern();
    const wanted = shown[current];
    shown = report.examples.map((_, place) => place).filter((place) => {
      const example = report.examples[place];
      if (words) words.lastIndex = 0;
      return (
        (!category.value || example.categories.includes(category.value)) &&
        example.candidates.some(matches) &&
        (!words || words.test(searched[place]))
      );
    });
    current = Math.max(0, shown.indexOf(wanted));
    found.textContent = `${whole(shown.length)} of ${whole(report.examples.length)} prompts`;
    list.replaceChildren(...shown.map((place, number) => entry(report.examples[place], number)));
    select(current, false);
  }

  function entry(example, number) {
    const text = texts(example.prompt).trim().slice(0, 220) || example.id;
    const item = make("li", { role: "option", id: `option-${number}`, "aria-selected": "false" },
      make("span", { class: "snippet", dir: "auto" }, text),
      make("span", { class: "why" }, example.categories.map(named).join(" · ")));
    item.addEventListener("click", () => select(number, false));
    return item;
  }

  function select(number, follow = true) {
    list.children[current]?.setAttribute("aria-selected", "false");
    current = number;
    const item = list.children[number];
    if (!item) {
      list.removeAttribute("aria-activedescendant");
      view.replaceChildren(make("p", { class: "empty" }, "No example fits. Change the search or the filters."));
      return;
    }
    item.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", item.id);
    if (follow) item.scrollIntoView({ block: "nearest" });
    show(report.examples[shown[number]]);
  }

  function show(example) {
    const words = pattern();
    const head = make("header", {}, make("h3", { dir: "auto" }, example.id),
      make("ul", { class: "chips" }, ...example.categories.map((name) => make("li", { class: "chip", title: report.settings.categories[name] }, named(name)))),
      make("span", {}, example.of > example.candidates.length ? `${example.candidates.length} of ${whole(example.of)} candidates` : `${whole(example.of)} candidates`),
      example.from ? make("span", { class: "path" }, `${example.from[0].split("/").pop()}, row ${whole(example.from[1])}`) : null);
    const said = make("div", { class: "said" },
      make("div", {}, make("h4", {}, "Prompt"), conversation(example.prompt, words, "user")),
      ...example.references.map((reference, number) =>
        make("div", {}, make("h4", {}, example.references.length > 1 ? `Reference ${number + 1}` : "Reference"), conversation(reference, words, "assistant"))));
    const rank = (candidate) => candidate.scores[scorerShown].rank ?? Infinity;
    const ordered = [...example.candidates].sort((one, other) => (rank(one) < rank(other) ? -1 : rank(one) > rank(other) ? 1 : 0));
    const rewards = ordered.map((candidate) => candidate.scores[scorerShown].reward).filter((reward) => reward !== null);
    const low = Math.min(...rewards), high = Math.max(...rewards);
    const chosen = model.value || status.value;
    view.replaceChildren(head, said, make("ol", { class: "candidates" },
      ...ordered.map((candidate) => card(candidate, low, high, words, chosen && matches(candidate)))));
    view.querySelectorAll(".text").forEach(unfoldable);
  }

  function card(candidate, low, high, words, match) {
    const score = candidate.scores[scorerShown];
    const item = make("li", { class: match ? "candidate match" : "candidate" });
    const kind = score.status === "ok" ? "" : score.status === "truncated" ? "status cut" : "status bad";
    item.append(make("div", { class: "top" },
      make("span", { class: "reward" }, score.reward === null ? "no reward" : compact(score.reward)),
      score.rank === null ? null : make("span", { class: "rank" }, `rank ${score.rank}`),
      kind ? make("span", { class: kind }, score.status) : null,
      make("span", { dir: "auto" }, candidate.model ?? "")));
    if (score.reward !== null) {
      const scale = make("div", { class: "scale", "aria-hidden": "true" });
      scale.style.setProperty("--share", high > low ? (score.reward - low) / (high - low) : 1);
      item.append(scale);
    }
    const about = make("ul", { class: "about" }, make("li", { dir: "auto" }, candidate.id));
    report.scorers.forEach((scorer, number) => {
      if (number === scorerShown) return;
      const other = candidate.scores[number];
      about.append(make("li", {}, `${scorer.label} ${other.reward === null ? other.status : compact(other.reward)}${other.rank === null ? "" : ` (rank ${other.rank})`}`));
    });
    if (score.tokens) about.append(make("li", {}, `${whole(score.tokens)} tokens`));
    if (score.uncertainty !== undefined) about.append(make("li", {}, `± ${compact(score.uncertainty, 3)}`));
    for (const { kind, field, value } of candidate.labels) {
      const said = field === "correct" && (value === 0 || value === 1) ? (value ? "correct" : "not correct") : compact(value);
      about.append(make("li", {}, make("b", { dir: "auto" }, `${kind || field}: ${said}`)));
    }
    if (score.error) about.append(make("li", { class: "status bad", dir: "auto" }, score.error));
    item.append(about, conversation(candidate.messages, words, "assistant"));
    return item;
  }

  /** Messages one after the other; roles are named where they are not what one expects. */
  function conversation(messages, words, expected) {
    const text = make("div", { class: "text", dir: "auto" });
    for (const message of messages) {
      if (messages.length > 1 || message.role !== expected) text.append(make("span", { class: "role" }, message.role));
      const part = make("div", { dir: "auto" }, ...marked(message.content, words));
      if (message.content === "") part.append(make("span", { class: "role" }, "(empty)"));
      if (message.characters) part.append(make("span", { class: "role" }, `… cut here; ${whole(message.characters)} characters in all`));
      text.append(part);
    }
    return text;
  }

  function marked(text, words) {
    if (!words) return [text];
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(words)) {
      if (!match[0]) continue;
      parts.push(text.slice(end, match.index), make("mark", {}, match[0]));
      end = match.index + match[0].length;
    }
    return [...parts, text.slice(end)];
  }

  /** Folds a long text; one in which something was found stays open. */
  function unfoldable(text) {
    if (text.scrollHeight < 330 || text.querySelector("mark")) return;
    text.classList.add("fold");
    const more = make("button", { type: "button", class: "more", "aria-expanded": "false" }, "Show all");
    more.addEventListener("click", () => {
      const folded = text.classList.toggle("fold");
      more.textContent = folded ? "Show all" : "Show less";
      more.setAttribute("aria-expanded", String(!folded));
    });
    text.after(more);
  }

  const move = (by) => { if (shown.length) select(Math.min(shown.length - 1, Math.max(0, current + by))); };
  list.addEventListener("keydown", (event) => {
    const places = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
    if (event.key in places) {
      event.preventDefault();
      move(places[event.key]);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) {
      if (event.key === "Escape" && event.target === query) { query.value = ""; filter(); }
      return;
    }
    if (event.key === "/") { event.preventDefault(); query.focus(); }
    if (event.key === "j") move(1);
    if (event.key === "k") move(-1);
  });
  for (const control of [query, category, model, status]) control.addEventListener("input", filter);
  query.form.addEventListener("submit", (event) => event.preventDefault());
  whenScorerChanges.push(filter);
  addEventListener("beforeprint", () => view.querySelectorAll(".fold").forEach((text) => text.classList.remove("fold")));
  filter();
}
