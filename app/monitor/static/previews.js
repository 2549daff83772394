// Previews of running jobs: the newest number wins, and for each job one image is loaded at a time.

import { root } from "./dom.js";
import { REFRESH_MS, refreshWithin } from "./schedule.js";
import { state } from "./state.js";

const previews = new Map();  // by job id: the newest number that was announced, and whether an image is being loaded

const shownNumber = (image) => Number(/[?&]n=([0-9]+)/.exec(image.getAttribute("src"))?.[1] ?? -1);

/** Whether the image shows at least what the refreshed page would show: an older preview must not replace a newer one. */
export const isNewerPreview = (image, fresh) => image.dataset.preview !== undefined
  && image.dataset.preview === fresh.dataset.preview && shownNumber(image) >= shownNumber(fresh);

export function onPreview({ job_id: job, number }) {
  if (state.paused || !Number.isSafeInteger(job) || !Number.isSafeInteger(number)) return;
  if (!document.querySelector(`[data-job="${job}"], [data-preview="${job}"]`)) return;
  const preview = previews.get(job) ?? { number: -1, loading: false };
  if (number <= preview.number) return;
  preview.number = number;
  previews.set(job, preview);
  load(job, preview);
}

export function forgetPreview(job) {
  previews.delete(job);
}

function load(job, preview) {
  if (preview.loading) return;
  const number = preview.number, source = `${root}/monitor/jobs/${job}/preview?n=${number}`, loader = new Image();
  preview.loading = true;
  loader.onload = loader.onerror = ({ type }) => {
    preview.loading = false;
    if (type === "load" && previews.get(job) === preview) show(job, number, source);
    if (preview.number > number) load(job, preview);
  };
  loader.src = source;
}

function show(job, number, source) {
  const thumb = document.querySelector(`.running[data-job="${job}"] .thumb`);
  if (thumb && !thumb.querySelector("[data-preview]")) {
    const image = document.createElement("img");
    Object.assign(image, { className: "preview", alt: "", width: 64, height: 64 });
    Object.assign(image.dataset, { preview: job, key: `preview-${job}` });
    thumb.replaceChildren(image);
  }
  const images = document.querySelectorAll(`img[data-preview="${job}"]`);
  if (!images.length) refreshWithin(REFRESH_MS);
  for (const image of images) if (shownNumber(image) < number) image.setAttribute("src", source);
}
