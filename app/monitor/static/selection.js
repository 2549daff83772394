// Selection: checkboxes of rows, and the buttons that act on all selected jobs.

import { byId, checkboxes, setText } from "./dom.js";
import { isHolding } from "./holding.js";
import { REFRESH_MS, refreshWithin } from "./schedule.js";

let lastChanged = null;

/** Whether the action of this bulk button can be done to the job of this checkbox. */
const applies = (box, button) => box.dataset.can.split(" ").includes(button.dataset.bulk);

/** Each button says how many of the selected jobs its action can be done to. */
export function updateSelection() {
  const all = checkboxes(), selected = all.filter((box) => box.checked);
  if (!byId("ticked")) return;
  setText(byId("ticked"), selected.length ? `${selected.length} selected` : "Select");
  for (const button of document.querySelectorAll("[data-bulk]")) {
    const count = selected.filter((box) => applies(box, button)).length;
    setText(button, `${button.dataset.verb} ${count} selected${button.dataset.plain === undefined ? "" : "…"}`);
    button.hidden = !count;
  }
  byId("tick-all").checked = all.length > 0 && selected.length === all.length;
  byId("tick-all").indeterminate = selected.length > 0 && selected.length < all.length;
}

export function onCheckbox(box, wholeRange) {
  if (box.id === "tick-all") for (const each of checkboxes()) each.checked = box.checked;
  else if (wholeRange && lastChanged?.isConnected) {
    const all = checkboxes(), [from, to] = [all.indexOf(lastChanged), all.indexOf(box)].sort((a, b) => a - b);
    for (const each of all.slice(from, to + 1)) each.checked = box.checked;
  }
  if (box.id !== "tick-all") lastChanged = box;
  updateSelection();
  if (!isHolding()) refreshWithin(REFRESH_MS);
}

/** Disables the selected checkboxes that the button's action does not apply to, so that the form leaves them out. */
export function limitSelectionTo(button) {
  for (const box of checkboxes()) box.disabled = box.checked && !applies(box, button);
}

export function clearSelection() {
  for (const box of checkboxes()) box.checked = box.disabled = false;
  updateSelection();
}
