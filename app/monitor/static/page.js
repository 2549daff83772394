// Takes over a refreshed page: patches what differs, and keeps what is newer here.

import { byId, main } from "./dom.js";
import { watchEnd } from "./gallery.js";
import { updateHeldNotice } from "./holding.js";
import { lastEventOf, showProgress } from "./jobs.js";
import { patch } from "./patching.js";
import { blockChangedButtons } from "./presses.js";
import { updateSelection } from "./selection.js";
import { state } from "./state.js";
import { setPageTitle } from "./status.js";
import { setServerTime, updateTimes } from "./times.js";

export function takePage(fresh) {
  if (state.paused && !state.showingHeld) {
    byId("health").dataset.events = fresh.getElementById("health").dataset.events;
    if (state.answering) updateHeldNotice(fresh);
    return;
  }
  patch(byId("health"), fresh.getElementById("health"));
  // While the server has errors, the last page that it sent stays readable.
  if (!state.answering) return;
  keepNewer(fresh);
  setServerTime(fresh.getElementById("main"));
  const focused = document.activeElement, place = focused?.closest(".row, header.job");
  patchKeptRows(fresh);
  patch(main(), fresh.getElementById("main"));
  // The button that was pressed may be gone; its row usually is not.
  if (place && !focused.isConnected) (place.isConnected ? place.querySelector(".title") ?? main() : main()).focus();
  updateHeldNotice(fresh);
  updateSelection();
  blockChangedButtons();
  setPageTitle(fresh.title);
  updateTimes();
  watchEnd();
}

// The page may have been made before the last event: nothing that is shown may go back.
function keepNewer(fresh) {
  for (const row of fresh.querySelectorAll("[data-job]")) {
    const event = lastEventOf(Number(row.dataset.job)), shown = byId(row.id);
    if (event?.status === "processing") showProgress(fresh, event);
    if (Number(shown?.dataset.order) > Number(row.dataset.order)) row.replaceWith(document.importNode(shown, true));
  }
}

// Rows that no longer belong to this page keep their places too while rows are selected, and are updated.
function patchKeptRows(fresh) {
  for (const row of fresh.querySelectorAll("#kept > li")) if (byId(row.id)) patch(byId(row.id), row);
  fresh.getElementById("kept")?.remove();
}
