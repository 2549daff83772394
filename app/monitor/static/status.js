// The connection's state in the header, and in the title of the tab where it matters.

import { byId, setText } from "./dom.js";
import { state } from "./state.js";

let pageTitle = document.title;

export function setPageTitle(title) {
  pageTitle = title;
  updateTitle();
}

/** Whether events arrive: the socket works, and the server itself receives events. */
export const isPushed = () => state.socketOpen && !state.socketSilent && byId("health").dataset.events === "on";

export function updateStatus() {
  let status = state.fetchedAt > state.socketLostAt ? "polling" : "connecting";
  if (state.socketOpen && !state.socketSilent) status = isPushed() ? "live" : "polling";
  if (state.paused) status = "paused";
  if (!state.answering || !navigator.onLine) status = "offline";
  if (state.signedOut) status = "signed out";
  // The page is as old as the last message that arrived, so the time offline counts from there.
  state.offlineSince = status === "offline" ? state.offlineSince || state.lastHeardAt : 0;
  const seconds = Math.floor((performance.now() - state.offlineSince) / 1000);
  byId("connection").dataset.state = status;
  setText(byId("connection-word"), state.offlineSince ? `offline ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : status);
  updateTitle();
}

function updateTitle() {
  const status = byId("connection").dataset.state;
  const title = (["offline", "paused", "signed out"].includes(status) ? `${status} · ` : "") + pageTitle;
  if (document.title !== title) document.title = title;
}
