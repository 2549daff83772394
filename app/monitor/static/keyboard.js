// Keyboard shortcuts: they act on the row that has the focus, or on the job that the page shows.

import { byId, pollMs, rows } from "./dom.js";
import { togglePause } from "./holding.js";

export function onKey(event) {
  if (document.documentElement.dataset.keys === "off") return;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select, video, audio")) return;
  const row = document.activeElement?.closest("#rows li");
  const press = (...actions) => {
    const buttons = actions.map((action) => `form[action$="/${action}"] button`).join();
    (row ?? document.querySelector("header.job"))?.querySelector(buttons)?.click();
  };
  const link = document.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
  const shortcut = {
    j: () => moveFocus(row, 1),
    k: () => moveFocus(row, -1),
    x: () => row?.querySelector("input[name=job]")?.click(),
    c: () => press("cancel"),
    r: () => press("retry", "again"),
    u: () => document.querySelector("#flash .undo button")?.click(),
    p: () => { if (pollMs()) togglePause(); },
    "/": () => document.querySelector("input[name=q]")?.focus(),
    "?": () => byId("help").showModal(),
  }[event.key] ?? (link && (() => link.click()));
  if (!shortcut) return;
  event.preventDefault();
  shortcut();
}

function moveFocus(row, by) {
  const all = rows(), target = all[row ? all.indexOf(row) + by : 0];
  target?.querySelector(".title, .shot").focus();
  target?.scrollIntoView({ block: "nearest" });
}
