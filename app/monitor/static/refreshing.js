// Refreshing: fetches the page as the server would show it now. One request at a time.

import { pollMs, rows } from "./dom.js";
import { isHolding } from "./holding.js";
import { takePage } from "./page.js";
import { SENT_AGAIN, probe } from "./probing.js";
import { POLL_MS, REFRESH_MS, refreshWithin } from "./schedule.js";
import { state } from "./state.js";
import { isPushed, updateStatus } from "./status.js";

/** Maximum milliseconds for a page while the network is known to work, and for opening a connection. */
export const SLOW_MS = 8000;
/** Milliseconds for a page, at least, when no socket would notice a cut. */
const POLL_ANSWER_MS = 2000;

const start = location.href;
let askedAgain = false;

/** `onBack`: the server answers again after a time offline. `onSignedOut`: the sign-in has ended. */
export async function refresh({ onBack, onSignedOut }) {
  askedAgain = state.fetching;
  if (state.fetching || state.stopped) return;
  state.fetching = true;
  const startedAt = performance.now(), actionsBefore = state.actionsSent, wasOffline = state.offlineSince;
  const limit = state.request = new AbortController();
  const timeout = setTimeout(() => limit.abort(), timeoutMs());
  let arrived = false;
  try {
    const answer = await fetch(address(), { headers: { "X-Fragment": "1" }, cache: "no-store", signal: limit.signal });
    const text = await answer.text();
    arrived = true;
    state.networkCut = state.networkReached = false;
    if (answer.status === 401) {
      state.fetching = false;
      return onSignedOut();
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    if (!fresh.getElementById("main") || !fresh.getElementById("health")) throw new Error("This is not a page of the monitor.");
    state.answering = answer.status < 500;
    state.fetchedAt = state.lastHeardAt = performance.now();
    state.fetchTookMs = state.fetchedAt - startedAt;
    // A page that was requested before an action may show the state before it.
    if (actionsBefore === state.actionsSent) takePage(fresh);
    else askedAgain = true;
  } catch {
    if (limit.signal.reason !== SENT_AGAIN) {
      state.answering = state.networkReached = false;
      state.networkCut = !arrived;
    }
    state.fetchedAt = performance.now();
  }
  clearTimeout(timeout);
  state.fetching = false;
  updateStatus();
  if (wasOffline && state.answering && (state.socketSilent || !state.socketOpen)) onBack();
  if (state.networkCut) probe();
  refreshWithin(askedAgain ? REFRESH_MS : isPushed() && state.answering ? pollMs() : POLL_MS);
}

// With the rows that keep their places, so that they are updated although they may have left this page of the list.
function address() {
  const url = new URL(start);
  const kept = isHolding() ? rows().filter((row) => !row.matches(".shots .completed")) : [];
  if (!state.paused && kept.length) url.searchParams.set("keep", kept.map((row) => row.dataset.job).join());
  return url;
}

// Where the network is known to work, a page may take long. Otherwise it may take three times as long as the last one.
function timeoutMs() {
  if ((state.socketOpen && !state.socketSilent) || state.networkReached) return SLOW_MS;
  return Math.min(SLOW_MS, Math.max(3 * state.fetchTookMs, POLL_ANSWER_MS));
}
