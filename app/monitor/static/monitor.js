// Keeps a page live. Events say that something changed; what is shown comes from the server, as the page itself would
// show it, and is patched in place. Only progress is taken from the event. Without this file everything works, but stands still.
"use strict";
(() => {
  const FETCH_MS = 250;        // at most four fetches a second
  const DISTANT_MS = 2000;     // what is not on this page changes its figures only
  const POLL_MS = 5000;        // while nothing is pushed
  const SILENCE_MS = 10000;    // so long without a word, and the socket is asked whether it lives
  const ANSWER_MS = 4000;
  const MAX_DELAY_MS = 15000;
  const REMEMBERED = 2000;

  const byId = (id) => document.getElementById(id);
  const main = () => byId("main");
  const poll = () => Number(main()?.dataset.poll) * 1000;

  // ---- Patching: the old tree becomes the new one, element by element, those with a key keep their identity.

  const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function patch(old, fresh) {
    if (old.nodeType !== 1) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    // Whether details are open is the reader's business.
    const kept = (name) => name === "open" && old.nodeName === "DETAILS";
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !kept(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !kept(name)) old.setAttribute(name, value);
    }
    patchChildren(old, fresh);
  }

  function patchChildren(old, fresh) {
    const keyed = new Map();
    const wanted = new Set([...fresh.childNodes].map(keyOf));
    const still = held(old);
    for (const child of [...old.childNodes]) {
      const key = keyOf(child);
      if (key && wanted.has(key)) keyed.set(key, child);
      else if (key && !still) child.remove();
    }
    if (still) {
      for (const child of fresh.childNodes) if (keyed.has(keyOf(child))) patch(keyed.get(keyOf(child)), child);
      return;
    }
    let place = old.firstChild;
    const pass = () => { const gone = place; place = place.nextSibling; gone.remove(); };
    for (const child of fresh.childNodes) {
      let match = keyed.get(keyOf(child)) ?? null;
      // Moving an element would take the focus from what is in it: rather remove what stands before it.
      if (match) while (place && place !== match && !keyOf(place)) pass();
      else if (place && !keyOf(child) && alike(place, child)) match = place;
      if (match && alike(match, child)) {
        if (match === place) place = place.nextSibling;
        else old.insertBefore(match, place);
        patch(match, child);
      } else {
        old.insertBefore(document.importNode(child, true), place);
        if (match && match === place) pass();
        else match?.remove();
      }
    }
    while (place) pass();
  }

  // Nothing is moved while the reader is about to press a row's button.
  function held(element) {
    if (element.dataset?.hold === undefined) return false;
    const busy = document.querySelector(".row :is(button, .button):is(:hover, :focus-visible)") !== null;
    if (busy) dirty(2000);
    return busy;
  }

  // ---- Jobs: the last event of each, so that a slower page never takes progress back.

  const last = new Map();

  function progress(root, event) {
    const row = root.querySelector(`[data-job="${event.job_id}"]`);
    if (!row || row.dataset.phase !== event.phase || !(event.seq > Number(row.dataset.order))) return;
    const bar = row.querySelector("progress");
    if (!bar || !(event.progress >= bar.value)) return;
    row.dataset.order = event.seq;
    bar.setAttribute("value", event.progress);
    row.querySelector(".percent").textContent = `${event.progress} %`;
  }

  function onJob(event) {
    if (!Number.isSafeInteger(event.job_id) || !Number.isSafeInteger(event.seq)) return;
    const before = last.get(event.job_id);
    if (before && before.seq >= event.seq) return;
    last.delete(event.job_id);
    last.set(event.job_id, event);
    if (last.size > REMEMBERED) last.delete(last.keys().next().value);
    const row = document.querySelector(`[data-job="${event.job_id}"]`);
    const phase = row ? row.dataset.phase : before?.phase;
    if (event.status === "processing" && phase === event.phase) progress(document, event);
    else dirty(row || main().dataset.first === "yes" ? FETCH_MS : DISTANT_MS);
    if (row && ["completed", "failed", "cancelled"].includes(event.status)) announce(`Job ${event.job_id} ${event.status}`);
  }

  let said = [];
  function announce(text) {
    said.push(text);
    if (said.length > 1) return;
    setTimeout(() => {
      byId("announce").textContent = said.length > 3 ? `${said.length} jobs have finished` : said.join(", ");
      said = [];
    }, 1500);
  }

  // ---- Fetching: one at a time, and never more often than every FETCH_MS.

  let due = Infinity, timer = 0, fetching = false, again = false, fetched = 0, took = 0, answering = true, skew = 0, stopped = false;

  function dirty(within) {
    // A server that needs long for a page is asked more seldom.
    const at = Math.max(performance.now() + 20, fetched + Math.max(within, Math.min(3 * took, POLL_MS)));
    if (at >= due || stopped) return;
    due = at;
    clearTimeout(timer);
    timer = setTimeout(refresh, at - performance.now());
  }

  async function refresh() {
    due = Infinity;
    clearTimeout(timer);
    again = fetching;
    if (fetching || stopped) return;
    fetching = true;
    const asked = performance.now();
    try {
      const options = { headers: { "X-Fragment": "1" }, cache: "no-store", signal: AbortSignal.timeout(8000) };
      const answer = await fetch(location.href, options);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!fresh.getElementById("main") || !fresh.getElementById("health")) throw new Error("no page of ours");
      answering = answer.status < 500;
      fetched = performance.now();
      took = fetched - asked;
      take(fresh);
    } catch {
      answering = false;
      fetched = performance.now();
    }
    fetching = false;
    tell();
    dirty(again ? FETCH_MS : pushed() && answering ? poll() : POLL_MS);
  }

  function take(fresh) {
    patch(byId("health"), fresh.getElementById("health"));
    // While the server has trouble, what it last said stays readable.
    if (!answering) return;
    for (const row of fresh.querySelectorAll("[data-job]")) {
      const event = last.get(Number(row.dataset.job));
      if (event?.status === "processing") progress(fresh, event);
    }
    const now = Date.parse(fresh.getElementById("main").dataset.now);
    if (now) skew = now - Date.now();
    patch(main(), fresh.getElementById("main"));
    if (document.title !== fresh.title) document.title = fresh.title;
    clock();
  }

  // ---- The socket: with back-off, closed while nobody looks, asked for a sign of life when it is silent.

  let socket = null, opened = false, lost = 0, delay = 500, retry = 0, watchdog = 0;

  const pushed = () => opened && byId("health").dataset.events === "on";

  function tell() {
    let state = fetched > lost ? "polling" : "reconnecting";
    if (opened) state = pushed() ? "live" : "polling";
    if (!answering || !navigator.onLine) state = "offline";
    if (byId("connection").dataset.state === state) return;
    byId("connection").dataset.state = state;
    byId("connection-word").textContent = state;
  }

  function connect() {
    clearTimeout(retry);
    if (socket || stopped || document.hidden) return;
    const mine = socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/events`);
    // A connection that is not even refused would hold the back-off for minutes.
    watch(8000);
    mine.onmessage = ({ data }) => {
      if (mine !== socket) return;
      heard();
      let event = null;
      try { event = JSON.parse(data); } catch { return; }
      if (event?.type === "hello") {
        opened = true;
        delay = 500;
        refresh();
      } else if (event?.type === "job") onJob(event);
      else if (event?.type && event.type !== "pong") dirty(FETCH_MS);
    };
    mine.onclose = () => { if (mine === socket) drop(); };
  }

  function drop() {
    const mine = socket;
    socket = null;
    if (opened) lost = performance.now();
    opened = false;
    clearTimeout(watchdog);
    mine?.close();
    if (stopped) return;
    tell();
    dirty(1000);
    clearTimeout(retry);
    retry = setTimeout(connect, delay * (0.75 + Math.random() / 2));
    delay = Math.min(delay * 2, MAX_DELAY_MS);
  }

  function watch(ms) {
    clearTimeout(watchdog);
    watchdog = setTimeout(drop, ms);
  }

  function heard() {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => {
      if (socket?.readyState !== WebSocket.OPEN) return drop();
      socket.send('{"type":"ping"}');
      watch(ANSWER_MS);
    }, SILENCE_MS);
  }

  function pause() {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(retry);
    clearTimeout(watchdog);
    due = Infinity;
    const mine = socket;
    socket = null;
    opened = false;
    mine?.close();
  }

  function resume() {
    stopped = false;
    delay = 500;
    lost = performance.now();
    tell();
    connect();
    dirty(1000);
  }

  // ---- Times that pass.

  function length(seconds) {
    if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
    if (seconds < 100) return `${Math.floor(seconds)} s`;
    if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
    return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
  }

  function clock() {
    const now = Date.now() + skew;
    for (const time of document.querySelectorAll("time[data-since], time[data-ago]")) {
      const text = length((now - Date.parse(time.dateTime)) / 1000) + ("ago" in time.dataset ? " ago" : "");
      if (time.textContent !== text) time.textContent = text;
    }
  }

  if (!poll()) return void (byId("connection").hidden = true);
  skew = Date.parse(main().dataset.now) - Date.now();
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : resume()));
  // A page kept for "back" must not hold a connection, and is old when it is shown again.
  addEventListener("pagehide", pause);
  addEventListener("pageshow", (event) => { if (event.persisted) resume(); });
  addEventListener("offline", () => drop());
  addEventListener("online", () => { answering = true; clearTimeout(retry); delay = 500; connect(); });
  setInterval(() => { if (!document.hidden) clock(); }, 1000);
  if (!document.hidden) {
    lost = performance.now();
    connect();
    dirty(POLL_MS);
  } else stopped = true;
})();
