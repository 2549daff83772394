// Patching: the old tree becomes the new one, element by element. Elements with a key keep their identity.

import { isHeld } from "./holding.js";
import { isNewerPreview } from "./previews.js";

const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");
const matches = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

export function patch(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  // The reader opens and closes details; the server does not know.
  const isKept = (name) => (name === "open" && old.nodeName === "DETAILS") || (name === "src" && isNewerPreview(old, fresh));
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !isKept(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isKept(name)) old.setAttribute(name, value);
  }
  patchChildren(old, fresh);
}

function patchChildren(old, fresh) {
  const keyed = new Map();
  const freshKeys = new Set([...fresh.childNodes].map(keyOf));
  const held = isHeld(old);
  for (const child of [...old.childNodes]) {
    const key = keyOf(child);
    if (key && freshKeys.has(key)) keyed.set(key, child);
    else if (key && !held) child.remove();
  }
  if (held) {
    for (const child of fresh.childNodes) if (keyed.has(keyOf(child))) patch(keyed.get(keyOf(child)), child);
    return;
  }
  let next = old.firstChild;
  const removeNext = () => { const removed = next; next = next.nextSibling; removed.remove(); };
  for (const child of fresh.childNodes) {
    let match = keyed.get(keyOf(child)) ?? null;
    // Moving an element takes the focus from what is inside, so what stands before it is removed instead.
    if (match) while (next && next !== match && !keyOf(next)) removeNext();
    else if (next && !keyOf(child) && matches(next, child)) match = next;
    if (match && matches(match, child)) {
      if (match === next) next = next.nextSibling;
      else old.insertBefore(match, next);
      patch(match, child);
    } else {
      old.insertBefore(document.importNode(child, true), next);
      if (match && match === next) removeNext();
      else match?.remove();
    }
  }
  while (next) removeNext();
}
