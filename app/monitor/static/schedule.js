// When the page is refreshed: one timer, set to the earliest time that was requested.

import { state } from "./state.js";

/** Milliseconds between a change and the refresh for it, and the minimum between two refreshes. */
export const REFRESH_MS = 120;
/** Milliseconds between two refreshes while nothing is pushed. */
export const POLL_MS = 5000;

let dueAt = Infinity, timer = 0, refresh = null;

export function setRefresh(callback) {
  refresh = callback;
}

/** Refreshes at most `ms` after the last refresh; a server that takes long for a page is asked less often. */
export function refreshWithin(ms) {
  const at = Math.max(performance.now() + 20, state.fetchedAt + Math.max(ms, Math.min(1.5 * state.fetchTookMs, POLL_MS)));
  if (at >= dueAt || state.stopped) return;
  dueAt = at;
  clearTimeout(timer);
  timer = setTimeout(refreshNow, at - performance.now());
}

export function refreshNow() {
  cancelRefresh();
  return refresh();
}

export function cancelRefresh() {
  clearTimeout(timer);
  dueAt = Infinity;
}
