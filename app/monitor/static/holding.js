// Holding: rows keep their places while some are selected, the page is paused, or a button is about to be pressed.
// A paused page does not change at all; it only says how many new jobs wait. Selected rows keep their places, but are updated.

import { byId, checkboxes, isFirstPage, rows } from "./dom.js";
import { refreshNow, refreshWithin } from "./schedule.js";
import { state } from "./state.js";
import { updateStatus } from "./status.js";
import { freezeClock, unfreezeClock, updateTimes } from "./times.js";

const BUTTON_IN_USE = ":is(.row, .bulk) :is(button, .button):is(:hover, :focus-visible)";

const hasGoneOn = () => document.querySelector(".shots ol + ol") || document.querySelector(".shots")?.getBoundingClientRect().top < 0;

export const isHolding = () => !state.showingHeld && (state.paused || hasGoneOn() || checkboxes().some((box) => box.checked));

/** Whether the children of this element must keep their places. */
export function isHeld(element) {
  if (element.dataset?.hold === undefined) return false;
  if (isHolding()) return true;
  const buttonInUse = !state.showingHeld && document.querySelector(BUTTON_IN_USE) !== null;
  if (buttonInUse) refreshWithin(2000);
  return buttonInUse;
}

export function updateHeldNotice(fresh) {
  const notice = byId("held");
  if (!notice) return;
  const known = new Set(rows().map((row) => row.id));
  const counts = isFirstPage() && isHolding();
  const waiting = counts ? [...fresh.querySelectorAll("#rows li")].filter((row) => !known.has(row.id)).length : 0;
  notice.hidden = !waiting;
  byId("held-word").textContent = waiting ? `▲ ${waiting} new (held)` : "";
}

export function togglePause() {
  state.paused = !state.paused;
  byId("pause").setAttribute("aria-pressed", state.paused);
  byId("pause").textContent = state.paused ? "Go on" : "Pause";
  if (state.paused) freezeClock();
  else unfreezeClock();
  updateTimes();
  updateStatus();
  if (!state.paused) refreshNow();
}

/** Shows the rows that were held back, once; the selection and the pause stay. */
export async function showHeld() {
  while (state.fetching) await new Promise((resolve) => setTimeout(resolve, 20));
  state.showingHeld = true;
  if (state.paused) freezeClock();
  await refreshNow();
  state.showingHeld = false;
  document.querySelector(".shots")?.scrollIntoView();
}
