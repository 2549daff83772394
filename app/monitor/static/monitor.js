// Keeps a page live: wires the modules to the page. Events say that something changed; what is shown comes from the server
// and is patched in place. Without JavaScript everything works, but the page does not update itself.

import { onSubmit } from "./actions.js";
import { connect, drop, onOnline, onSignedOut, reconnectSoon, sleep, wake } from "./connection.js";
import { byId, checkboxes, main, pollMs } from "./dom.js";
import { wireGallery } from "./gallery.js";
import { showHeld, togglePause } from "./holding.js";
import { onKey } from "./keyboard.js";
import { connectPreference } from "./preferences.js";
import { forgetPresses } from "./presses.js";
import { refresh } from "./refreshing.js";
import { POLL_MS, refreshWithin, setRefresh } from "./schedule.js";
import { onCheckbox, updateSelection } from "./selection.js";
import { wireSending } from "./sending.js";
import { state } from "./state.js";
import { updateStatus } from "./status.js";
import { setServerTime, updateTimes } from "./times.js";
import { toast } from "./toasts.js";

function wirePage() {
  setRefresh(() => refresh({ onBack: reconnectSoon, onSignedOut }));
  connectPreference("theme");
  connectPreference("zone", updateTimes);
  connectPreference("keys");
  byId("view").hidden = false;
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  byId("close-help").addEventListener("click", () => byId("help").close());
  document.addEventListener("submit", onSubmit);
  document.addEventListener("keydown", onKey);
  // The second click of a double click must not send a form again.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest("form[method=post] button")) event.preventDefault();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.matches(".tick input")) onCheckbox(event.target, event.shiftKey);
    else if (event.target.id === "show-held") showHeld();
    else if (!event.target.closest("#view")) byId("view").open = false;
  });
  // After "back", forms are as they were when the reader left.
  addEventListener("pageshow", () => {
    forgetPresses();
    for (const field of [...checkboxes(), ...document.querySelectorAll(".search [name]")]) field.disabled = false;
    updateSelection();
  });
  wireGallery();
  wireSending();
  toast(...byId("flash").children);
  setServerTime(main());
  updateTimes();
  setInterval(() => {
    if (document.hidden) return;
    updateTimes();
    if (pollMs()) updateStatus();
  }, 1000);
}

function goLive() {
  byId("pause").hidden = false;
  byId("pause").addEventListener("click", togglePause);
  document.addEventListener("visibilitychange", () => (document.hidden ? sleep() : wake()));
  // A page in the back-forward cache must not hold a connection, and is old when it is shown again.
  addEventListener("pagehide", sleep);
  addEventListener("pageshow", (event) => { if (event.persisted) wake(); });
  addEventListener("offline", drop);
  addEventListener("online", onOnline);
  state.stopped = document.hidden;
  if (state.stopped) return;
  state.socketLostAt = performance.now();
  connect();
  refreshWithin(POLL_MS);
}

wirePage();
if (pollMs()) goLive();
else byId("connection").hidden = true;
