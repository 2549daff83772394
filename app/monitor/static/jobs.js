// Events of jobs: progress is taken from the event; for every other change the page is refreshed.

import { isFirstPage } from "./dom.js";
import { forgetPreview } from "./previews.js";
import { REFRESH_MS, refreshWithin } from "./schedule.js";
import { state } from "./state.js";
import { announce } from "./toasts.js";

/** Maximum number of jobs whose last event is kept. */
const MAX_EVENTS = 2000;
/** Milliseconds until a refresh for a job that is not on this page: it changes the figures only. */
const FIGURES_MS = 2000;

const FINISHED = ["completed", "failed", "cancelled"];

const lastEvents = new Map();  // by job id: a page that was made earlier must not take progress back

export const lastEventOf = (job) => lastEvents.get(job);

export function onJob(event) {
  if (!Number.isSafeInteger(event.job_id) || !Number.isSafeInteger(event.seq)) return;
  const before = lastEvents.get(event.job_id);
  if (before && before.seq >= event.seq) return;
  lastEvents.delete(event.job_id);
  lastEvents.set(event.job_id, event);
  if (lastEvents.size > MAX_EVENTS) lastEvents.delete(lastEvents.keys().next().value);
  const row = document.querySelector(`[data-job="${event.job_id}"]`);
  if (state.paused) return row ? undefined : refreshWithin(REFRESH_MS);
  const phase = row ? row.dataset.phase : before?.phase;
  if (event.status === "processing" && phase === event.phase) showProgress(document, event);
  else refreshWithin(row || isFirstPage() ? REFRESH_MS : FIGURES_MS);
  if (!FINISHED.includes(event.status)) return;
  forgetPreview(event.job_id);
  if (row) announce(`Job ${event.job_id} ${event.status}`);
}

/** Puts the event's progress on the job's elements in `root`, unless they show later progress. */
export function showProgress(root, event) {
  for (const row of root.querySelectorAll(`[data-job="${event.job_id}"]`)) {
    const bar = row.querySelector("progress");
    if (row.dataset.phase !== event.phase || !(event.seq > Number(row.dataset.order))) continue;
    if (!bar || !(event.progress >= bar.value)) continue;
    row.dataset.order = event.seq;
    bar.setAttribute("value", event.progress);
    row.querySelector(".percent").textContent = `${event.progress} %`;
    const step = row.querySelector(".step");
    if (step && event.node) step.textContent = stepOf(event.node);
    if (event.node) showNode(row, event.node);
  }
}

// The bar and the title of the node that runs, on the page of one job.
function showNode(row, { id, value, max }) {
  const bar = row.querySelector(".node-bar"), title = row.querySelector("[data-node]");
  if (title && title.dataset.node !== id) title.remove();
  if (!bar) return;
  bar.hidden = !(max > 1);
  bar.setAttribute("max", max);
  bar.setAttribute("value", value);
}

/** The same rule as in shown.py. */
const stepOf = ({ type, value, max }) => `${type ?? ""}${max > 1 ? ` ${value}/${max}` : ""}`;
