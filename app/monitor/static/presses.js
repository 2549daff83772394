// Presses: one press acts once. What is remembered belongs to the place on the page and not to the form, because the form
// is patched meanwhile: by the second click of a double click it may hold the opposite action.

/** Milliseconds in which a second press was meant for the button that stood there before. */
const REPEAT_MS = 700;

const sending = new Map();    // by place: the press whose answer has not come yet
const pressedAt = new Map();  // by place
const answered = new Set();   // places whose buttons are about to change

export function placeOf(form) {
  const place = form.closest("[data-job], .card, #bulk, #flash");
  return place ? place.dataset.job ?? place.id : form.getAttribute("action");
}

export const isSending = (place) => sending.has(place);
export const isBlocked = (place) => sending.has(place) || performance.now() - (pressedAt.get(place) ?? -REPEAT_MS) < REPEAT_MS;

/** Blocks the place for a moment from now on. */
export function block(place) {
  pressedAt.set(place, performance.now());
  updateButtons();
  setTimeout(updateButtons, REPEAT_MS + 20);
}

/** Blocks the place until the press is finished; returns the press. */
export function startPress(place) {
  const press = {};
  sending.set(place, press);
  block(place);
  return press;
}

/** Whether this press is still the one that its place waits for. */
export const isCurrent = (place, press) => sending.get(place) === press;

export function finishPress(place) {
  sending.delete(place);
  answered.add(place);
  block(place);
}

/** After a refresh: the buttons of answered presses have changed just now, so they are blocked once more. */
export function blockChangedButtons() {
  for (const place of answered) block(place);
  answered.clear();
  updateButtons();
}

export function forgetPresses() {
  sending.clear();
  updateButtons();
}

// Not `disabled`, which would take the focus away.
function updateButtons() {
  for (const form of document.forms) {
    if (form.method !== "post") continue;
    const blocked = isBlocked(placeOf(form));
    for (const button of form.querySelectorAll("button")) {
      if (blocked) button.setAttribute("aria-disabled", "true");
      else button.removeAttribute("aria-disabled");
    }
  }
}
