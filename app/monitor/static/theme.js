// Before anything is drawn, so that no page flashes in the wrong theme.
"use strict";
document.documentElement.dataset.js = "";
try {
  for (const name of ["theme", "zone", "keys"]) {
    const kept = localStorage.getItem(`genonaut-${name}`);
    if (kept) document.documentElement.dataset[name] = kept;
  }
} catch { /* A browser that keeps nothing shows the system's theme. */ }
