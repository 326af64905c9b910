"use strict";

// The page reads, unfolds and filters by status without this script. It adds search, the other filters, keys, the
// theme button, and an address that says what is shown: the filters before the #, the open statement after it.

const root = document.documentElement;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

function recall(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* a page on disk may have no storage */ }
}

// ---- statements: each is one or several spans, the last of which unfolds

const statements = new Map();
for (const span of all(".document .statement")) {
  const name = span.dataset.of;
  if (!statements.has(name)) statements.set(name, { name, spans: [], section: span.closest(".chapter").dataset.section });
  statements.get(name).spans.push(span);
}
for (const each of statements.values()) {
  each.known = each.spans.map((span) => one(":scope > .known", span)).find(Boolean);
  each.facets = each.spans[0].dataset;
  if (!each.known) statements.delete(each.name);
}

function textOf(statement) {
  if (statement.text === undefined) {
    const claim = one(".facts dd", statement.known);
    const parts = [...statement.spans.map((span) => one(".words", span)), one(".id", statement.known), claim];
    statement.text = parts.map((part) => part.textContent).join(" ").replace(/\s+/g, " ").toLowerCase();
  }
  return statement.text;
}

const opened = () => [...statements.values()].find((each) => each.known.open);
const shownOnes = () => [...statements.values()].filter((each) => each.known.checkVisibility());

// ---- filters

const form = one(".filter");
const FILTERS = ["status", "section", "verdict", "mmu", "kernel", "tier", "q"];
const control = (name) => form.elements[name];

function asked() {
  const found = {};
  for (const name of FILTERS) {
    const value = control(name).value.trim();
    if (value && !(name === "status" && value === "all")) found[name] = value;
  }
  return found;
}

function ask(wanted) {
  for (const name of FILTERS) {
    control(name).value = wanted[name] ?? (name === "status" ? "all" : "");
    if (name === "status" && !one("[name=status]:checked")) one("[name=status][value=all]").checked = true;
  }
}

const among = (words, wanted) => (wanted === "none" ? !words : words.split(" ").includes(wanted));

// Evidence of a tier that is asked for together with a kernel has to have been seen on that kernel.
function seen(words, tier, kernel) {
  if (!tier && !kernel) return true;
  if (tier === "none") return !words && !kernel;
  return words.split(" ").some((word) => {
    const [itsTier, ...itsKernel] = word.split(":");
    return (!tier || itsTier === tier) && (!kernel || itsKernel.join(":") === kernel);
  });
}

function fits(statement, wanted) {
  const { facets } = statement;
  return (!wanted.status || facets.status === wanted.status)
    && (!wanted.section || statement.section === wanted.section)
    && (!wanted.verdict || facets.verdict === wanted.verdict)
    && (!wanted.mmu || among(facets.mmu, wanted.mmu))
    && seen(facets.seen, wanted.tier, wanted.kernel)
    && (!wanted.q || wanted.q.toLowerCase().split(/\s+/).every((word) => textOf(statement).includes(word)));
}

function filter() {
  const wanted = asked();
  const active = Object.keys(wanted).length;
  let count = 0;
  for (const statement of statements.values()) {
    const fit = fits(statement, wanted);
    count += fit;
    for (const span of statement.spans) span.toggleAttribute("data-out", !fit);
  }
  for (const part of all(".document .part, .document .chapter"))
    part.toggleAttribute("data-out", active > 0 && !one(".statement:not([data-out])", part));
  root.classList.toggle("filtering", active > 0);
  one(".shown").textContent = active ? `${count} of ${statements.size} statements` : "";
  const inMenu = Object.keys(wanted).filter((name) => name !== "status" && name !== "q").length;
  one(".menu .active").textContent = inMenu;
  one(".menu .active").hidden = !inMenu;
  highlight(wanted.q);
}

// Words that were searched for are painted, not wrapped: the document stays as it is.
function highlight(query) {
  if (!CSS.highlights) return;
  CSS.highlights.delete("search");
  if (!query) return;
  const ranges = [];
  const words = query.toLowerCase().split(/\s+/);
  for (const place of all(".document .statement:not([data-out]) > .words")) {
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.toLowerCase();
      if (text.length !== walker.currentNode.data.length) continue;
      for (const word of words)
        for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, at + word.length);
          ranges.push(range);
        }
    }
  }
  CSS.highlights.set("search", new Highlight(...ranges));
}

// ---- the address

function named() {
  const name = location.hash.slice(1);
  try { return decodeURIComponent(name); } catch { return name; /* a stray percent sign names itself */ }
}

function note(name, how) {
  const query = new URLSearchParams(asked()).toString();
  const address = `${location.pathname}${query && "?"}${query}${name && "#"}${encodeURIComponent(name)}`;
  if (address === `${location.pathname}${location.search}${location.hash}`) return;
  try { history[how](null, "", address); } catch { /* a page in a frame may not have an address */ }
}

const push = (name) => note(name, "pushState");
const rename = (name) => note(name, "replaceState");

function open(statement, how = push) {
  for (const each of statements.values()) if (each !== statement) close(each);
  statement.known.open = true;
  for (const span of statement.spans) span.toggleAttribute("data-open", true);
  how(statement.name);
}

function close(statement) {
  statement.known.open = false;
  for (const span of statement.spans) span.removeAttribute("data-open");
}

function closeAndSay(statement) {
  close(statement);
  push("");
}

// Where what is left after filtering begins; a statement that is open stays where it is.
function toTheStart() {
  const statement = opened();
  if (!statement) scrollTo({ top: 0 });
  else if (statement.known.checkVisibility()) show(one(".words", statement.spans[0]), "nearest");
}

function show(element, block) {
  element.scrollIntoView({ block });
}

// What the address says is what is shown: after a click on a link, and on the way back and forth.
function follow() {
  ask(Object.fromEntries(new URLSearchParams(location.search)));
  filter();
  const name = named();
  const statement = statements.get(name);
  for (const each of statements.values()) if (each !== statement) close(each);
  const target = document.getElementById(name);
  if (!target) return;
  for (let around = target; around; around = around.parentElement)
    if (around instanceof HTMLDetailsElement) around.open = true;
  // What is named is shown, whatever the filter says.
  if (!target.checkVisibility() || target.hasAttribute("data-out")) {
    ask({});
    filter();
  }
  if (!statement) {
    if (target.matches(".former, dt")) show(target, "center");
    return;
  }
  open(statement, rename);
  show(one(".words", statement.spans[0]), "center");
}

// ---- reading with the mouse and with keys

let last = null;

function step(by) {
  const there = shownOnes();
  if (!there.length) return;
  const focused = document.activeElement.closest?.(".statement")?.dataset.of;
  const current = there.findIndex((each) => each.name === (focused ?? last));
  const below = there.findIndex((each) => each.spans[0].getBoundingClientRect().top >= one(".bar").offsetHeight);
  const next = current >= 0 ? current + by : below < 0 ? there.length - 1 : below;
  const statement = there[Math.min(Math.max(next, 0), there.length - 1)];
  if (opened()) open(statement, rename);
  focus(statement);
}

function focus(statement) {
  last = statement.name;
  one("summary", statement.known).focus({ preventScroll: true, focusVisible: true });
  show(one(".words", statement.spans[0]), "center");
}

function escape() {
  const menu = one(".menu[open]");
  const statement = opened();
  if (menu) {
    menu.open = false;
    one("summary", menu).focus();
  } else if (statement) {
    closeAndSay(statement);
    focus(statement);
  }
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  "/": () => control("q").select(),
  "?": () => one(".keys").showModal(),
  m: () => one(".marks").click(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
  const { target } = event;
  if (target === control("q")) {
    if (event.key === "Escape") {
      if (!control("q").value) control("q").blur();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const first = shownOnes()[0];
      if (first && asked().q) focus(first);
    }
    return;
  }
  if (event.key === "Escape") return void escape();
  if (target.matches("input:not([type=radio]), select, textarea") || !one(".keys-on input").checked) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

document.addEventListener("click", (event) => {
  const { target } = event;
  const menu = one(".menu[open]");
  if (menu && !menu.contains(target)) menu.open = false;
  const link = target.closest("[data-filter]");
  if (link) {
    event.preventDefault();
    ask(Object.fromEntries(new URLSearchParams(link.dataset.filter)));
    filter();
    push("");
    toTheStart();
    return;
  }
  // A link to where the address is already changes nothing, so nobody else would tell.
  const again = target.closest("a[href^='#']");
  if (again && again.hash === location.hash) follow();
  const summary = target.closest(".known > summary");
  const words = target.closest(".words");
  if (!summary && (!words || target.closest("a") || !getSelection().isCollapsed)) return;
  const statement = statements.get(target.closest(".statement").dataset.of);
  if (!statement) return;
  event.preventDefault();
  last = statement.name;
  if (statement.known.open) closeAndSay(statement);
  else open(statement);
});

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  filter();
  if (event.target.name === "q") rename(opened()?.name ?? "");
  else push(opened()?.name ?? "");
  toTheStart();
});
one(".clear").addEventListener("click", () => {
  ask({});
  filter();
  push(opened()?.name ?? "");
});

// ---- where one is

const entries = new Map(all(".contents a").map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
const onTop = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    const link = entries.get(target.getAttribute("aria-labelledby"));
    if (isIntersecting) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-25% 0px -75% 0px" });
for (const chapter of all(".chapter")) onTop.observe(chapter);

// ---- looks

const themes = ["light", "dark"];
const themeNow = () => root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

function wear(theme) {
  if (!themes.includes(theme)) return;
  root.dataset.theme = theme;
  remember("theme", theme);
}

one(".theme").addEventListener("click", () => wear(themes.find((theme) => theme !== themeNow())));
one(".marks").addEventListener("click", (event) => {
  const on = root.classList.toggle("marks-named");
  event.currentTarget.setAttribute("aria-pressed", on);
});
one(".help").addEventListener("click", () => one(".keys").showModal());
one(".keys-on input").checked = recall("keys") !== "off";
one(".keys-on input").addEventListener("change", (event) => remember("keys", event.target.checked ? "on" : "off"));

wear(recall("theme"));
root.classList.add("scripting");
for (const each of all(".scripted")) each.hidden = false;
new ResizeObserver(() => { root.style.scrollPaddingTop = `${one(".bar").offsetHeight + 16}px`; }).observe(one(".bar"));
addEventListener("popstate", follow);
addEventListener("hashchange", follow);
// When all is there the browser goes to what the address names, and knows no better than its top.
addEventListener("load", follow);
follow();
