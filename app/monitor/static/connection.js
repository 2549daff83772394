// The live connection: a socket with back-off, closed while the page is hidden, and checked with a ping when it is silent.

import { byId, root } from "./dom.js";
import { onJob } from "./jobs.js";
import { onPreview } from "./previews.js";
import { TRY_MS, probe } from "./probing.js";
import { SLOW_MS } from "./refreshing.js";
import { REFRESH_MS, cancelRefresh, refreshNow, refreshWithin } from "./schedule.js";
import { state } from "./state.js";
import { updateStatus } from "./status.js";
import { showLasting } from "./toasts.js";

// A cut that closes no connection must be shown within three seconds. So after SILENCE_MS without a message the page sends
// a ping, and the server has ANSWER_MS to answer.
const SILENCE_MS = 1000;
const ANSWER_MS = 1200;
/** Milliseconds for messages that arrived while the page itself was busy. */
const BUSY_MS = 100;
const MIN_DELAY_MS = 500;
const MAX_DELAY_MS = 15000;

let socket = null, triedAt = 0, delayMs = MIN_DELAY_MS, retryTimer = 0, watchdog = 0;

export function connect() {
  clearTimeout(retryTimer);
  if (socket || state.stopped || document.hidden) return;
  triedAt = performance.now();
  const opening = socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${root}/ws/events`);
  // A connection that is neither accepted nor refused would block the back-off for minutes.
  watch(drop, SLOW_MS);
  opening.onmessage = ({ data }) => { if (opening === socket) onMessage(data); };
  opening.onclose = () => { if (opening === socket) drop(); };
}

function onMessage(data) {
  onSignOfLife();
  let event = null;
  try { event = JSON.parse(data); } catch { return; }
  if (event?.type === "hello") {
    state.socketOpen = state.answering = true;
    delayMs = MIN_DELAY_MS;
    updateStatus();
    refreshNow();
  // A paused page without a notice of held rows has nothing to update.
  } else if (state.paused && !byId("held")) return;
  else if (event?.type === "job") onJob(event);
  else if (event?.type === "preview") onPreview(event);
  else if (event?.type && event.type !== "pong") refreshWithin(REFRESH_MS);
}

export function drop() {
  const dropped = socket;
  socket = null;
  if (state.socketOpen) state.socketLostAt = performance.now();
  state.socketOpen = state.socketSilent = false;
  clearTimeout(watchdog);
  dropped?.close();
  if (state.stopped) return;
  updateStatus();
  refreshWithin(1000);
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, delayMs * (0.75 + Math.random() / 2));
  delayMs = Math.min(delayMs * 2, MAX_DELAY_MS);
}

function watch(callback, ms) {
  clearTimeout(watchdog);
  watchdog = setTimeout(callback, ms);
}

function onSignOfLife() {
  state.lastHeardAt = performance.now();
  state.networkCut = false;
  if (state.socketSilent) {
    state.socketSilent = false;
    state.answering = true;
    updateStatus();
    refreshNow();
  }
  watch(() => {
    if (socket?.readyState !== WebSocket.OPEN) return drop();
    socket.send('{"type":"ping"}');
    watch(() => watch(onSilence, BUSY_MS), ANSWER_MS);
  }, SILENCE_MS);
}

// The ping was not answered: the page says so at once, and gives up the request under way. The socket stays for a while,
// because the server may only be busy: if all browsers connected anew together, it would be busy for longer.
function onSilence() {
  state.socketSilent = state.networkCut = true;
  state.answering = state.networkReached = false;
  state.request?.abort();
  updateStatus();
  probe();
  refreshNow();
  watch(drop, SLOW_MS);
}

/** The server answers again: a socket that does not come back soon was lost with the cut. */
export function reconnectSoon() {
  delayMs = MIN_DELAY_MS;
  if (socket) watch(drop, state.socketSilent ? TRY_MS / 2 : Math.max(0, triedAt + 2 * TRY_MS - performance.now()));
  else connect();
}

/** The browser says that it is online again. */
export function onOnline() {
  state.answering = true;
  delayMs = MIN_DELAY_MS;
  connect();
}

export function sleep() {
  state.stopped = true;
  cancelRefresh();
  clearTimeout(retryTimer);
  clearTimeout(watchdog);
  const closing = socket;
  socket = null;
  state.socketOpen = state.socketSilent = false;
  // Browsers log an error for a socket that is closed while it is being opened.
  if (closing?.readyState === WebSocket.CONNECTING) closing.onopen = () => closing.close();
  else closing?.close();
}

export function wake() {
  // The reader may have signed in again in another tab.
  if (state.signedOut) return location.reload();
  state.stopped = false;
  delayMs = MIN_DELAY_MS;
  // What is known about the network is from before the page was hidden.
  state.answering = true;
  state.networkCut = state.networkReached = false;
  state.socketLostAt = state.lastHeardAt = performance.now();
  updateStatus();
  connect();
  refreshWithin(1000);
}

/** The sign-in has ended: what is shown stays readable, nothing more is requested, and a link leads back here. */
export function onSignedOut() {
  state.signedOut = true;
  sleep();
  updateStatus();
  const message = document.createElement("p"), link = document.createElement("a");
  message.className = "flash bad";
  link.href = location.href;
  link.textContent = "Sign in again";
  message.append("Your sign-in has ended. ", link);
  showLasting(message);
}
