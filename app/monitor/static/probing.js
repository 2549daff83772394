// Probing: after a cut the smallest file is requested again and again. A request that is lost, or a page that takes long,
// does not delay the next try. When it is answered, the page is refreshed.

import { POLL_MS, refreshNow } from "./schedule.js";
import { state } from "./state.js";

/** Milliseconds between two tries while the cut is fresh. */
export const TRY_MS = 750;
/** Milliseconds after which a cut is no longer fresh. */
const FRESH_MS = 30000;

/** Why a request was aborted: it is sent again at once, and this says nothing about the network. */
export const SENT_AGAIN = "sent again";

let timer = 0;

export function probe() {
  clearTimeout(timer);
  if (!state.networkCut || state.stopped) return;
  const limit = new AbortController(), icon = document.querySelector("link[rel=icon]").href;
  setTimeout(() => limit.abort(), 3 * TRY_MS);
  fetch(icon, { method: "HEAD", cache: "no-store", signal: limit.signal }).then(() => {
    if (!state.networkCut) return;
    state.networkCut = false;
    state.networkReached = true;
    state.request?.abort(SENT_AGAIN);
    refreshNow();
  }, () => {});
  timer = setTimeout(probe, performance.now() - state.offlineSince < FRESH_MS ? TRY_MS : POLL_MS);
}
