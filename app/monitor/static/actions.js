// Actions: a form is sent in the background, and the page stays. Without this module the browser would send it itself.

import { main } from "./dom.js";
import { block, finishPress, isBlocked, isCurrent, placeOf, startPress } from "./presses.js";
import { REFRESH_MS, refreshWithin } from "./schedule.js";
import { clearSelection, limitSelectionTo, updateSelection } from "./selection.js";
import { state } from "./state.js";
import { toast } from "./toasts.js";

const ANSWER_MS = 60000;

export function onSubmit(event) {
  const form = event.target, button = event.submitter;
  if (form.method !== "post") {
    // Empty fields need not be in the address.
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
    return;
  }
  const place = placeOf(form);
  if (isBlocked(place)) {
    event.preventDefault();
    return block(place);
  }
  const press = startPress(place);
  const isBulk = Boolean(button?.dataset.bulk);
  if (isBulk) limitSelectionTo(button);
  if ([form, button].some((each) => each?.dataset.plain !== undefined)) return;
  event.preventDefault();
  const action = button?.getAttribute("formaction") ?? form.getAttribute("action");
  const fields = new URLSearchParams(new FormData(form));
  // If no answer comes and it is sent again, the server recognises the same press.
  fields.set("press", [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
  send(action, fields).then((sent) => {
    // A reader who left the page and came back finds it unlocked, with the result.
    if (!isCurrent(place, press)) return;
    if (!sent) return submitInBrowser(action, fields);
    finishPress(place);
    if (isBulk) clearSelection();
    else updateSelection();
    refreshWithin(REFRESH_MS);
  });
}

// A new form, because the one that was pressed may have been patched meanwhile.
function submitInBrowser(action, fields) {
  const form = Object.assign(document.createElement("form"), { method: "post", action, hidden: true });
  for (const [name, value] of fields) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  document.body.append(form);
  form.submit();
}

/** Sends the fields and shows the answer; returns false if there was no answer that can be shown. */
async function send(action, fields) {
  let answer, fresh;
  try {
    const options = { method: "POST", body: fields, headers: { "X-Fragment": "acted" }, signal: AbortSignal.timeout(ANSWER_MS) };
    answer = await fetch(action, options);
    fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { return false; }
  const page = fresh.getElementById("main"), messages = fresh.querySelectorAll("#flash > *");
  if (!page) return false;
  state.actionsSent += 1;
  if (messages.length) toast(...[...messages].map((message) => document.importNode(message, true)));
  else if (!answer.ok) {
    const error = document.createElement("p");
    error.className = "flash bad";
    error.textContent = [...page.querySelectorAll("h1, .text")].map((part) => part.textContent.trim()).join(": ");
    toast(error);
  } else if (page.dataset.page !== main().dataset.page) location.assign(answer.url);
  return true;
}
