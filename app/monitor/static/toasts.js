// Toasts: short messages about actions, and announcements for screen readers.

import { byId } from "./dom.js";
import { isSending } from "./presses.js";

const TOAST_MS = 10000;
const BUTTON_TOAST_MS = 30000;  // a message with a button has to be read, decided on and reached
const ANNOUNCE_MS = 1500;       // jobs that finish together are announced together

let removal = 0, announcements = [];

export function toast(...elements) {
  showLasting(...elements);
  if (elements.length) removal = setTimeout(remove, byId("flash").querySelector("button") ? BUTTON_TOAST_MS : TOAST_MS);
}

/** Shows a message that stays until another one replaces it. */
export function showLasting(...elements) {
  clearTimeout(removal);
  byId("flash").replaceChildren(...elements);
}

// A message under the pointer or with the focus stays, and so does one whose form is being sent.
function remove() {
  const flash = byId("flash");
  if (flash.matches(":hover, :focus-within") || isSending(flash.id)) removal = setTimeout(remove, 2000);
  else flash.replaceChildren();
}

export function announce(text) {
  announcements.push(text);
  if (announcements.length > 1) return;
  setTimeout(() => {
    const count = announcements.length;
    byId("announce").textContent = count > 3 ? `${count} jobs have finished` : announcements.join(", ");
    announcements = [];
  }, ANNOUNCE_MS);
}
