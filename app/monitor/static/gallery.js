// The gallery: goes on by itself when its end comes near, and keeps the reader's place in the address.

import { byId, isDeep, rows } from "./dom.js";
import { REFRESH_MS, refreshWithin } from "./schedule.js";

/** With so many tiles the page goes on no further by itself: the link at its end leads to a new one. */
const MAX_TILES = 1000;

const start = location.href.split("#")[0];  // the page that the tiles begin with
const end = new IntersectionObserver((seen) => { if (seen.at(-1).isIntersecting) append(); }, { rootMargin: "1000px" });
let loading = false, timer = 0;

const grid = () => document.querySelector(".shots");
const tiles = () => [...document.querySelectorAll(".shot")];
const next = () => document.querySelector(".shots ~ .pager [rel=next]")?.href;

export function wireGallery() {
  if (!grid()) return;
  history.scrollRestoration = "manual";
  addEventListener("scroll", () => {
    clearTimeout(timer);
    timer = setTimeout(keepPlace, 150);
  });
  watchEnd();
}

/** To be called after each change: the end may have come near without being scrolled to. */
export function watchEnd() {
  end.disconnect();
  if (next()) end.observe(byId("pager"));
}

async function append() {
  const address = next();
  if (loading || tiles().length >= MAX_TILES) return;
  loading = true;
  try {
    const answer = await fetch(address, { headers: { "X-Fragment": "1" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html"), pager = fresh.getElementById("pager");
    if (pager && address === next()) {
      for (const item of fresh.querySelectorAll(".shots > li")) {
        item.dataset.page = address;
        if (!byId(item.id)) grid().append(document.importNode(item, true));
      }
      byId("pager").replaceWith(document.importNode(pager, true));
      setTimeout(watchEnd);
    }
  } catch { /* The link stays, and the next refresh tries again. */ }
  loading = false;
}

// A reload, the way back and a copied address lead to the first tile in sight; the page of that tile is the one refreshed.
function keepPlace() {
  const tile = isDeep() && tiles().find((each) => each.getBoundingClientRect().bottom > 99);
  const page = (tile && tile.closest("li").dataset.page) || start, address = tile ? `${page}#${tile.id}` : page;
  if (address === location.href) return;
  if (!tile || page !== location.href.split("#")[0]) refreshWithin(REFRESH_MS);
  history.replaceState(null, "", address);
}

/** Puts the tiles before and after the page that was refreshed into it, unless there are too many of them. */
export function keepPages(fresh) {
  const into = fresh.querySelector(".shots"), known = rows();
  const places = [...into?.children ?? []].map((item) => known.indexOf(byId(item.id))).filter((place) => place >= 0);
  if (!places.length || (tiles().length > MAX_TILES && !isDeep())) return;
  const copies = (...range) => known.slice(...range).filter(({ id }) => !fresh.getElementById(id)).map((each) => each.cloneNode(true));
  const after = copies(places.at(-1) + 1);
  if (fresh.getElementById("main").dataset.first !== "yes") into.prepend(...copies(0, places[0]));
  into.append(...after);
  if (after.length) fresh.getElementById("pager").replaceWith(byId("pager").cloneNode(true));
}
