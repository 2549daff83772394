// What the reader chooses in the View menu, kept in this browser. theme.js applies it before the page is drawn.

import { byId } from "./dom.js";

/** Connects the field with this id to its setting; `onChange` is called after each change. */
export function connectPreference(name, onChange) {
  const field = byId(name), root = document.documentElement;
  field.value = root.dataset[name] ?? "";
  field.addEventListener("change", () => {
    if (field.value) root.dataset[name] = field.value;
    else delete root.dataset[name];
    try {
      if (field.value) localStorage.setItem(`genonaut-${name}`, field.value);
      else localStorage.removeItem(`genonaut-${name}`);
    } catch { /* Without storage the choice holds for this page only. */ }
    onChange?.();
  });
}
