"use strict";

// The page reads, filters and unfolds without this script. It adds: the theme button, and that a link to a
// statement unfolds what is known of it.

const root = document.documentElement;
const themes = ["light", "dark"];

function remembered() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

function show(theme) {
  if (!themes.includes(theme)) return;
  root.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* a page on disk may have no storage */ }
}

function current() {
  return root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function unfold() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { /* a stray percent sign names itself */ }
  const target = document.getElementById(name);
  if (!target) return;
  for (let around = target.parentElement; around; around = around.parentElement)
    if (around instanceof HTMLDetailsElement) around.open = true;
  const own = target.matches(".statement") && target.querySelector("details.known");
  if (own) own.open = true;
  if (target.matches(".statement, dt")) target.scrollIntoView({ block: "center" });
}

show(remembered());
const button = document.querySelector("button.theme");
button.hidden = false;
button.addEventListener("click", () => show(themes.find((theme) => theme !== current())));
addEventListener("hashchange", unfold);
unfold();
