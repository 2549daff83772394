// The gallery: appends the next page near its end, up to MAX_TILES, and keeps the reader's place in the address.

import { REFRESH_MS, refreshWithin } from "./schedule.js";

const MAX_TILES = 1000;
const TRY_AGAIN_MS = 2000;

// Whoever stands still at the end makes no further crossing: what was lost is asked for again.
const end = new IntersectionObserver(([{ isIntersecting, target }]) => { if (isIntersecting) append(target).catch(() => setTimeout(watchEnd, TRY_AGAIN_MS)); }, { rootMargin: "500px" });
const tiles = () => [...document.querySelectorAll(".shot")];

export function wireGallery() {
  if (!tiles().length) return;
  history.scrollRestoration = "manual";
  addEventListener("scrollend", keepPlace);
  if (location.hash) location.replace(location.hash);
}

export function watchEnd() {
  const next = document.querySelector(".shots > a");
  end.disconnect();
  if (next && tiles().length < MAX_TILES) end.observe(next);
}

async function append(next) {
  const page = next.href;
  const answer = await fetch(page, { headers: { "X-Fragment": "1" } });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll(".shots > *");
  if (!fresh.length || !next.isConnected || next.href !== page) return;
  next.replaceWith(...fresh);
  watchEnd();
}

function keepPlace() {
  const tile = tiles().findLast((each) => each.getBoundingClientRect().top < 0), page = (tile ?? tiles()[0])?.closest("ol").dataset.key;
  history.replaceState(null, "", tile ? `${page}#${tile.id}` : page);
  if (!tile) refreshWithin(REFRESH_MS);
}
