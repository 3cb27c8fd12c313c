"use strict";
// What the other scripts share: the data, small helpers, the theme, and which scorer is shown.

const report = JSON.parse(document.getElementById("data").textContent);

/** Makes an element; text is always text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Writes a number with a few significant digits. */
function compact(number, digits = 4) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return number.toExponential(digits - 2).replace("-", "−");
  const options = size >= 10 ** digits ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits };
  return number.toLocaleString("en", options).replace("-", "−");
}

const whole = (number) => number.toLocaleString("en");
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

function percent(part, total) {
  if (!total) return "–";
  const value = (100 * part) / total;
  return value > 0 && value < 0.1 ? "< 0.1%" : `${value.toFixed(1)}%`;
}

// The theme follows the system until the button is pressed.
{
  const root = document.documentElement;
  const stored = (() => {
    try { return localStorage.getItem("polar-ray-theme"); } catch { return null; }
  })();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("polar-ray-theme", root.dataset.theme); } catch { /* a page from a file may not store */ }
  });
}

// With several scorers one is shown at a time; its sections then carry the anchors of the navigation.
let scorerShown = 0;
const whenScorerChanges = [];
{
  const pick = document.getElementById("scorer");
  pick?.addEventListener("change", () => {
    scorerShown = Number(pick.value);
    for (const part of document.querySelectorAll("[data-of]")) part.hidden = Number(part.dataset.of) !== scorerShown;
    for (const section of document.querySelectorAll("[data-section]")) {
      const shown = Number(section.closest("[data-of]").dataset.of) === scorerShown;
      if (shown) section.id = section.dataset.section;
      else section.removeAttribute("id");
    }
    for (const change of whenScorerChanges) change();
  });
  if (pick) pick.value = "0";
}
