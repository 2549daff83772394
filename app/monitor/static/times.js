// Times that pass: ages, durations and estimates are counted on between two refreshes.

import { byId, setText } from "./dom.js";

let serverAheadMs = 0, frozenAt = 0;

/** Takes the server's clock from the page's `data-now`; a page without one changes nothing. */
export function setServerTime(main) {
  const now = Date.parse(main.dataset.now);
  if (now) serverAheadMs = now - Date.now();
}

export function freezeClock() {
  frozenAt = Date.now();
}

export function unfreezeClock() {
  frozenAt = 0;
}

/** The same rule as `duration` in words.py. */
function duration(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

/** The same rule as in eta.py: rounded outwards, in the unit that the upper end needs. */
function range(low, high) {
  if (high < 1) return "less than 1 s";
  const [unit, word] = high < 100 ? [1, "s"] : high < 6000 ? [60, "min"] : [3600, "h"];
  const from = Math.floor(Math.max(0, low) / unit), to = Math.ceil(high / unit);
  return `≈ ${from < to ? `${from}–` : ""}${to} ${word}`;
}

const twoDigits = (number) => String(number).padStart(2, "0");
const localTime = (at) => `${at.getFullYear()}-${twoDigits(at.getMonth() + 1)}-${twoDigits(at.getDate())} `
  + `${twoDigits(at.getHours())}:${twoDigits(at.getMinutes())}:${twoDigits(at.getSeconds())}`;

export function updateTimes() {
  const now = (frozenAt || Date.now()) + serverAheadMs, zone = document.documentElement.dataset.zone;
  for (const time of document.querySelectorAll("time[data-since], time[data-ago], time[data-stamp]")) {
    const at = Date.parse(time.dateTime), age = duration((now - at) / 1000);
    let text = age;
    if (time.dataset.since === undefined) {
      text = zone === "local" ? localTime(new Date(at)) : new Date(at).toISOString().slice(0, 19).replace("T", " ");
      if (!zone && time.dataset.ago !== undefined) text = `${age} ago`;
    }
    setText(time, text);
  }
  for (const eta of document.querySelectorAll("[data-latest]")) {
    const [low, high] = [eta.dataset.earliest, eta.dataset.latest].map((end) => (Date.parse(end) - now) / 1000);
    setText(eta, high > 0 ? `${range(low, high)} left` : "any moment now");
  }
  const browserZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const charts = document.querySelector(".chart-plot") ? " Charts are UTC." : "";
  if (byId("zone-word")) setText(byId("zone-word"), zone === "local" ? `Times are of ${browserZone}.${charts}` : "Times are UTC.");
}
