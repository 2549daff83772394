// Keeps a page live. Events say that something changed; what is shown comes from the server, as the page itself would
// show it, and is patched in place. Only progress is taken from the event. Without this file everything works, but stands still.
"use strict";
(() => {
  const FETCH_MS = 120;        // a fetch is due so soon after the last one, and no sooner than it took and half as long again
  const DISTANT_MS = 2000;     // what is not on this page changes its figures only
  const POLL_MS = 5000;        // while nothing is pushed
  // A cut that nobody is told of is said within three seconds: so long without a word, and the socket is asked whether it
  // lives; then it has so long to answer. While one looks, that is a frame of 15 bytes a second each way.
  const SILENCE_MS = 1000;
  const ANSWER_MS = 1200;
  const BUSY_MS = 100;         // what came while the page itself was busy is heard first
  const SLOW_MS = 8000;        // so long a page or a connection may take when the network is known, or not expected, to work
  const POLL_ANSWER_MS = 2000; // and so long a page without a socket that would notice
  const TRY_MS = 750;          // so often it is tried whether a cut is over,
  const CLOSELY_MS = 30000;    // at first
  const MAX_DELAY_MS = 15000;
  const REMEMBERED = 2000;
  const TWICE_MS = 700;        // a second press so soon was meant for the button that stood there before
  const TOAST_MS = 10000;
  const BUTTON_TOAST_MS = 30000; // one that holds a button has to be read, decided on and reached

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
    const kept = (name) => (name === "open" && old.nodeName === "DETAILS") || (name === "src" && newer(old, fresh));
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

  // A picture that is shown already is not taken back for one that the server knew of earlier.
  const pictured = (image) => Number(/[?&]n=([0-9]+)/.exec(image.getAttribute("src"))?.[1] ?? -1);
  const newer = (old, fresh) => old.dataset.preview !== undefined && old.dataset.preview === fresh.dataset.preview
    && pictured(old) >= pictured(fresh);

  // ---- Holding: rows keep their places while some are ticked, the page is paused, or a button is about to be pressed.

  // Paused, nothing on the page changes until it goes on, whichever page it is: no state, no bar, no figure of the header, no
  // time that passes. Only how many jobs wait to be shown is told. While rows are ticked they keep their places, and live on.
  let paused = false, letting = false, stood = 0;

  const rows = () => [...document.querySelectorAll("#rows > .row")];
  const ticks = () => [...document.querySelectorAll(".row input[name=job]")];
  const holding = () => !letting && (paused || ticks().some((tick) => tick.checked));

  function held(element) {
    if (element.dataset?.hold === undefined) return false;
    if (holding()) return true;
    const busy = !letting && document.querySelector(":is(.row, .bulk) :is(button, .button):is(:hover, :focus-visible)") !== null;
    if (busy) dirty(2000);
    return busy;
  }

  // Rows that have left the page keep their places too, and show what has become of their jobs.
  function takeKept(fresh) {
    for (const row of fresh.querySelectorAll("#kept > .row")) if (byId(row.id)) patch(byId(row.id), row);
    fresh.getElementById("kept")?.remove();
  }

  function tellHeld(fresh) {
    const notice = byId("held");
    if (!notice) return;
    const known = new Set(rows().map((row) => row.id));
    const waiting = main().dataset.first === "yes" && holding() ? [...fresh.querySelectorAll("#rows > .row")].filter((row) => !known.has(row.id)).length : 0;
    notice.hidden = !waiting;
    byId("held-word").textContent = waiting ? `▲ ${waiting} new (held)` : "";
  }

  // The scope of an action is on its button: those of the ticked jobs that it can be done to.
  function tellTicked() {
    const all = ticks(), ticked = all.filter((tick) => tick.checked);
    if (!byId("ticked")) return;
    const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };
    write(byId("ticked"), ticked.length ? `${ticked.length} selected` : "Select");
    for (const button of document.querySelectorAll("[data-bulk]")) {
      const count = ticked.filter((tick) => able(tick, button)).length;
      write(button, `${button.dataset.verb} ${count} selected${button.dataset.plain === undefined ? "" : "…"}`);
      button.hidden = !count;
    }
    byId("tick-all").checked = all.length > 0 && ticked.length === all.length;
    byId("tick-all").indeterminate = ticked.length > 0 && ticked.length < all.length;
  }

  const able = (tick, button) => tick.dataset.can.split(" ").includes(button.dataset.bulk);

  let lastTicked = null;

  function onTick(tick, range) {
    if (tick.id === "tick-all") for (const each of ticks()) each.checked = tick.checked;
    else if (range && lastTicked?.isConnected) {
      const all = ticks(), [from, to] = [all.indexOf(lastTicked), all.indexOf(tick)].sort((a, b) => a - b);
      for (const each of all.slice(from, to + 1)) each.checked = tick.checked;
    }
    if (tick.id !== "tick-all") lastTicked = tick;
    tellTicked();
    if (!holding()) dirty(FETCH_MS);
  }

  function setPaused(to) {
    paused = to;
    byId("pause").setAttribute("aria-pressed", to);
    byId("pause").textContent = to ? "Go on" : "Pause";
    stood = to ? Date.now() : 0;
    clock();
    tell();
    if (!to) refresh();
  }

  async function letGo() {
    while (fetching) await new Promise((later) => setTimeout(later, 20));
    letting = true;
    if (paused) stood = Date.now();
    await refresh();
    letting = false;
  }

  // ---- Acting: the form that would do it without this file is sent, and the page stays.

  function act(event) {
    const form = event.target, button = event.submitter;
    if (form.method !== "post") {
      // What is empty need not stand in the address.
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
      return;
    }
    const place = placeOf(form), mine = {};
    if (tooSoon(place)) {
      event.preventDefault();
      return mark(place);
    }
    busy.set(place, mine);
    mark(place);
    const scope = button?.dataset.bulk ? ticks().filter((tick) => tick.checked && able(tick, button)).map((tick) => tick.value) : null;
    if (scope) for (const tick of ticks()) tick.disabled = tick.checked && !able(tick, button);
    if ([form, button].some((each) => each?.dataset.plain !== undefined)) return;
    event.preventDefault();
    const action = button?.getAttribute("formaction") ?? form.getAttribute("action");
    const fields = new URLSearchParams(new FormData(form));
    // Sent a second time, because no answer came, it is known to be the same press.
    fields.set("press", [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
    send(action, fields).then((sent) => {
      // Who left the page and came back has had it unlocked, and sees what has become of it.
      if (busy.get(place) !== mine) return;
      if (!sent) return submitPlainly(action, fields);
      busy.delete(place);
      settling.add(place);
      mark(place);
      if (scope) for (const tick of ticks()) tick.checked = tick.disabled = false;
      tellTicked();
      dirty(FETCH_MS);
    });
  }

  // One press acts once. What is kept of it belongs to the place and not to the form: that is patched meanwhile, and holds
  // the opposite action by the time of the second click of a double one.
  const busy = new Map(), pressed = new Map(), settling = new Set();

  function placeOf(form) {
    const place = form.closest("[data-job], .card, #bulk, #flash");
    return place ? place.dataset.job ?? place.id : form.getAttribute("action");
  }

  const tooSoon = (place) => busy.has(place) || performance.now() - (pressed.get(place) ?? -TWICE_MS) < TWICE_MS;

  function mark(place) {
    pressed.set(place, performance.now());
    tellBusy();
    setTimeout(tellBusy, TWICE_MS + 20);
  }

  // Not `disabled`, which would take the focus away.
  function tellBusy() {
    for (const form of document.forms) {
      if (form.method !== "post") continue;
      const soon = tooSoon(placeOf(form));
      for (const button of form.querySelectorAll("button")) {
        if (soon) button.setAttribute("aria-disabled", "true");
        else button.removeAttribute("aria-disabled");
      }
    }
  }

  // As the browser would have done it: the form that was pressed may be another one by now.
  function submitPlainly(action, fields) {
    const form = Object.assign(document.createElement("form"), { method: "post", action, hidden: true });
    for (const [name, value] of fields) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
    document.body.append(form);
    form.submit();
  }

  async function send(action, fields) {
    let answer, fresh;
    try {
      const options = { method: "POST", body: fields, headers: { "X-Fragment": "acted" }, signal: AbortSignal.timeout(60000) };
      answer = await fetch(action, options);
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch { return false; }
    const page = fresh.getElementById("main"), said = fresh.querySelectorAll("#flash > *");
    if (!page) return false;
    acted += 1;
    if (said.length) toast(...[...said].map((part) => document.importNode(part, true)));
    else if (!answer.ok) {
      const fault = document.createElement("p");
      fault.className = "flash bad";
      fault.textContent = [...page.querySelectorAll("h1, .text")].map((part) => part.textContent.trim()).join(": ");
      toast(fault);
    } else if (page.dataset.page !== main().dataset.page) location.assign(answer.url);
    return true;
  }

  let toasting = 0;

  function toast(...said) {
    const flash = byId("flash");
    flash.replaceChildren(...said);
    clearTimeout(toasting);
    // Nothing is taken away from under the pointer or the focus, nor while its own form is on its way.
    const end = () => {
      if (flash.matches(":hover, :focus-within") || busy.has(flash.id)) toasting = setTimeout(end, 2000);
      else flash.replaceChildren();
    };
    if (said.length) toasting = setTimeout(end, flash.querySelector("button") ? BUTTON_TOAST_MS : TOAST_MS);
  }

  // ---- Jobs: the last event of each, so that a slower page never takes progress back.

  const last = new Map();

  function progress(root, event) {
    for (const row of root.querySelectorAll(`[data-job="${event.job_id}"]`)) {
      const bar = row.querySelector("progress");
      if (row.dataset.phase !== event.phase || !(event.seq > Number(row.dataset.order))) continue;
      if (!bar || !(event.progress >= bar.value)) continue;
      row.dataset.order = event.seq;
      bar.setAttribute("value", event.progress);
      row.querySelector(".percent").textContent = `${event.progress} %`;
      const step = row.querySelector(".step");
      if (step && event.node) step.textContent = stepOf(event.node);
      if (event.node) nodeBar(row, event.node);
    }
  }

  // The bar of the node at work, and its title, on the page of one job.
  function nodeBar(row, { id, value, max }) {
    const bar = row.querySelector(".node-bar"), title = row.querySelector("[data-node]");
    if (title && title.dataset.node !== id) title.remove();
    if (!bar) return;
    bar.hidden = !(max > 1);
    bar.setAttribute("max", max);
    bar.setAttribute("value", value);
  }

  const stepOf = ({ type, value, max }) => `${type ?? ""}${max > 1 ? ` ${value}/${max}` : ""}`;

  function onJob(event) {
    if (!Number.isSafeInteger(event.job_id) || !Number.isSafeInteger(event.seq)) return;
    const before = last.get(event.job_id);
    if (before && before.seq >= event.seq) return;
    last.delete(event.job_id);
    last.set(event.job_id, event);
    if (last.size > REMEMBERED) last.delete(last.keys().next().value);
    const row = document.querySelector(`[data-job="${event.job_id}"]`);
    if (paused) return row ? undefined : dirty(FETCH_MS);
    const phase = row ? row.dataset.phase : before?.phase;
    if (event.status === "processing" && phase === event.phase) progress(document, event);
    else dirty(row || main().dataset.first === "yes" ? FETCH_MS : DISTANT_MS);
    if (!["completed", "failed", "cancelled"].includes(event.status)) return;
    pictures.delete(event.job_id);
    if (row) announce(`Job ${event.job_id} ${event.status}`);
  }

  // ---- Pictures while they come up: the newest wins, and of each job one is loaded at a time.

  const pictures = new Map();

  function onPreview({ job_id: job, number }) {
    if (paused || !Number.isSafeInteger(job) || !Number.isSafeInteger(number)) return;
    const place = document.querySelector(`[data-job="${job}"], [data-preview="${job}"]`);
    if (!place) return;
    const picture = pictures.get(job) ?? { number: -1, loading: false };
    if (number <= picture.number) return;
    picture.number = number;
    pictures.set(job, picture);
    load(job, picture);
  }

  function load(job, picture) {
    if (picture.loading) return;
    const number = picture.number, source = `/monitor/jobs/${job}/preview?n=${number}`, next = new Image();
    picture.loading = true;
    next.onload = next.onerror = ({ type }) => {
      picture.loading = false;
      if (type === "load" && pictures.get(job) === picture) draw(job, number, source);
      if (picture.number > number) load(job, picture);
    };
    next.src = source;
  }

  function draw(job, number, source) {
    const thumb = document.querySelector(`.row.running[data-job="${job}"] .thumb`);
    if (thumb && !thumb.querySelector("[data-preview]")) {
      const image = document.createElement("img");
      Object.assign(image, { className: "preview", alt: "", width: 64, height: 64 });
      Object.assign(image.dataset, { preview: job, key: `preview-${job}` });
      thumb.replaceChildren(image);
    }
    const images = document.querySelectorAll(`img[data-preview="${job}"]`);
    if (!images.length) dirty(FETCH_MS);
    for (const image of images) if (pictured(image) < number) image.setAttribute("src", source);
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

  let due = Infinity, timer = 0, fetching = false, again = false, fetched = 0, took = 0, answering = true, skew = 0, stopped = false, acted = 0, asking = null, cut = false, reached = false, probing = 0, left = false;

  function dirty(within) {
    // A server that needs long for a page is asked more seldom.
    const at = Math.max(performance.now() + 20, fetched + Math.max(within, Math.min(1.5 * took, POLL_MS)));
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
    const asked = performance.now(), before = acted, away = offline, limit = new AbortController();
    asking = limit;
    const late = setTimeout(() => limit.abort(), patience());
    let came = false;
    try {
      const address = new URL(location.href);
      if (holding() && !paused && rows().length) address.searchParams.set("keep", rows().map((row) => row.dataset.job).join());
      const answer = await fetch(address, { headers: { "X-Fragment": "1" }, cache: "no-store", signal: limit.signal });
      const text = await answer.text();
      came = true;
      cut = reached = false;
      if (answer.status === 401) return leave();
      const fresh = new DOMParser().parseFromString(text, "text/html");
      if (!fresh.getElementById("main") || !fresh.getElementById("health")) throw new Error("no page of ours");
      answering = answer.status < 500;
      fetched = heardAt = performance.now();
      took = fetched - asked;
      // What was asked before something was done may not know of it.
      if (before === acted) take(fresh);
      else again = true;
    } catch {
      // What was given up to be asked anew says nothing of the network.
      if (limit.signal.reason !== "anew") {
        answering = reached = false;
        cut = !came;
      }
      fetched = performance.now();
    }
    clearTimeout(late);
    fetching = false;
    tell();
    if (away && answering && (mute || !opened)) rejoin();
    if (cut) probe();
    dirty(again ? FETCH_MS : pushed() && answering ? poll() : POLL_MS);
  }

  // The sign-in has ended: what is shown stays readable, nothing more is asked for, and who signs in again comes back here.
  function leave() {
    left = true;
    sleep();
    tell();
    const said = document.createElement("p"), link = document.createElement("a");
    said.className = "flash bad";
    link.href = location.href;
    link.textContent = "Sign in again";
    said.append("Your sign-in has ended. ", link);
    toast(said);
    clearTimeout(toasting);
  }

  // Where the network is known to work, a page may take its time; and what it took so far, it may take again.
  const patience = () => ((opened && !mute) || reached ? SLOW_MS : Math.min(SLOW_MS, Math.max(3 * took, POLL_ANSWER_MS)));

  // While nothing comes through, the smallest file is asked for, again and again: no request that was lost, and no page that
  // takes long, holds up the next try. What answers is asked for the page.
  function probe() {
    clearTimeout(probing);
    if (!cut || stopped) return;
    const limit = new AbortController(), icon = document.querySelector("link[rel=icon]").href;
    setTimeout(() => limit.abort(), 3 * TRY_MS);
    fetch(icon, { method: "HEAD", cache: "no-store", signal: limit.signal }).then(() => {
      if (!cut) return;
      cut = false;
      reached = true;
      asking?.abort("anew");
      refresh();
    }, () => {});
    probing = setTimeout(probe, performance.now() - offline < CLOSELY_MS ? TRY_MS : POLL_MS);
  }

  function take(fresh) {
    if (paused && !letting) {
      byId("health").dataset.events = fresh.getElementById("health").dataset.events;
      if (answering) tellHeld(fresh);
      return;
    }
    patch(byId("health"), fresh.getElementById("health"));
    // While the server has trouble, what it last said stays readable.
    if (!answering) return;
    for (const row of fresh.querySelectorAll("[data-job]")) {
      const event = last.get(Number(row.dataset.job)), shown = byId(row.id);
      if (event?.status === "processing") progress(fresh, event);
      // What was made before the last event came is out of date: nothing is taken back.
      if (Number(shown?.dataset.order) > Number(row.dataset.order)) row.replaceWith(document.importNode(shown, true));
    }
    const now = Date.parse(fresh.getElementById("main").dataset.now);
    if (now) skew = now - Date.now();
    const focus = document.activeElement, place = focus?.closest(".row, header.job");
    takeKept(fresh);
    patch(main(), fresh.getElementById("main"));
    // The button that was pressed is gone; where the reader was is not.
    if (place && !focus.isConnected) (place.isConnected ? place.querySelector(".title") ?? main() : main()).focus();
    tellHeld(fresh);
    tellTicked();
    for (const place of settling) mark(place);
    settling.clear();
    tellBusy();
    heading = fresh.title;
    entitle();
    clock();
  }

  // ---- The socket: with back-off, closed while nobody looks, asked for a sign of life when it is silent.

  let socket = null, opened = false, mute = false, lost = 0, tried = 0, delay = 500, retry = 0, watchdog = 0;

  const pushed = () => opened && !mute && byId("health").dataset.events === "on";

  let heading = document.title, offline = 0, heardAt = performance.now();

  function tell() {
    let state = fetched > lost ? "polling" : "connecting";
    if (opened && !mute) state = pushed() ? "live" : "polling";
    if (paused) state = "paused";
    if (!answering || !navigator.onLine) state = "offline";
    if (left) state = "signed out";
    // It is as old as the last word that was heard.
    offline = state === "offline" ? offline || heardAt : 0;
    const away = Math.floor((performance.now() - offline) / 1000);
    const said = offline ? `offline ${Math.floor(away / 60)}:${String(away % 60).padStart(2, "0")}` : state;
    byId("connection").dataset.state = state;
    if (byId("connection-word").textContent !== said) byId("connection-word").textContent = said;
    entitle();
  }

  function entitle() {
    const state = byId("connection").dataset.state;
    const title = (["offline", "paused", "signed out"].includes(state) ? `${state} · ` : "") + heading;
    if (document.title !== title) document.title = title;
  }

  function connect() {
    clearTimeout(retry);
    if (socket || stopped || document.hidden) return;
    tried = performance.now();
    const mine = socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/events`);
    // A connection that is not even refused would hold the back-off for minutes.
    watch(drop, SLOW_MS);
    mine.onmessage = ({ data }) => {
      if (mine !== socket) return;
      heard();
      let event = null;
      try { event = JSON.parse(data); } catch { return; }
      if (event?.type === "hello") {
        opened = answering = true;
        delay = 500;
        tell();
        refresh();
      // Where nothing can be new that is held back, nothing has to be asked for.
      } else if (paused && !byId("held")) return;
      else if (event?.type === "job") onJob(event);
      else if (event?.type === "preview") onPreview(event);
      else if (event?.type && event.type !== "pong") dirty(FETCH_MS);
    };
    mine.onclose = () => { if (mine === socket) drop(); };
  }

  function drop() {
    const mine = socket;
    socket = null;
    if (opened) lost = performance.now();
    opened = mute = false;
    clearTimeout(watchdog);
    mine?.close();
    if (stopped) return;
    tell();
    dirty(1000);
    clearTimeout(retry);
    retry = setTimeout(connect, delay * (0.75 + Math.random() / 2));
    delay = Math.min(delay * 2, MAX_DELAY_MS);
  }

  function watch(then, ms) {
    clearTimeout(watchdog);
    watchdog = setTimeout(then, ms);
  }

  function heard() {
    heardAt = performance.now();
    cut = false;
    if (mute) {
      mute = false;
      answering = true;
      tell();
      refresh();
    }
    watch(() => {
      if (socket?.readyState !== WebSocket.OPEN) return drop();
      socket.send('{"type":"ping"}');
      watch(() => watch(silent, BUSY_MS), ANSWER_MS);
    }, SILENCE_MS);
  }

  // It was asked, and says nothing: that is told at once, and what is being fetched will not come either. It may be the
  // server that is held up, so it is not hung up on yet: if all who look came anew together, it would be so for longer.
  function silent() {
    mute = cut = true;
    answering = reached = false;
    asking?.abort();
    tell();
    probe();
    refresh();
    watch(drop, SLOW_MS);
  }

  // The page is there again: a connection that does not come back with it was lost with the way that was cut.
  function rejoin() {
    delay = 500;
    if (socket) watch(drop, mute ? TRY_MS / 2 : Math.max(0, tried + 2 * TRY_MS - performance.now()));
    else connect();
  }

  function sleep() {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(retry);
    clearTimeout(watchdog);
    due = Infinity;
    const mine = socket;
    socket = null;
    opened = mute = false;
    // Browsers complain of one that is closed while it is being opened.
    if (mine?.readyState === WebSocket.CONNECTING) mine.onopen = () => mine.close();
    else mine?.close();
  }

  function wake() {
    // Perhaps it is another tab in which one has signed in again.
    if (left) return location.reload();
    stopped = false;
    delay = 500;
    // Nobody has listened meanwhile.
    answering = true;
    cut = reached = false;
    lost = heardAt = performance.now();
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

  // As the server says it: rounded outwards, in the unit that the upper end needs.
  function between(low, high) {
    if (high < 1) return "less than 1 s";
    const [unit, word] = high < 100 ? [1, "s"] : high < 6000 ? [60, "min"] : [3600, "h"];
    const from = Math.floor(Math.max(0, low) / unit), to = Math.ceil(high / unit);
    return `≈ ${from < to ? `${from}–` : ""}${to} ${word}`;
  }

  const two = (number) => String(number).padStart(2, "0");
  const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `
    + `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;

  function clock() {
    const now = (stood || Date.now()) + skew, zone = document.documentElement.dataset.zone;
    for (const time of document.querySelectorAll("time[data-since], time[data-ago], time[data-stamp]")) {
      const at = Date.parse(time.dateTime), past = length((now - at) / 1000);
      let text = past;
      if (time.dataset.since === undefined) {
        text = zone === "local" ? day(new Date(at)) : new Date(at).toISOString().slice(0, 19).replace("T", " ");
        if (!zone && time.dataset.ago !== undefined) text = `${past} ago`;
      }
      if (time.textContent !== text) time.textContent = text;
    }
    for (const eta of document.querySelectorAll("[data-latest]")) {
      const [low, high] = [eta.dataset.earliest, eta.dataset.latest].map((end) => (Date.parse(end) - now) / 1000);
      const text = high > 0 ? `${between(low, high)} left` : "any moment now";
      if (eta.textContent !== text) eta.textContent = text;
    }
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const charts = document.querySelector(".chart-plot") ? " Charts are UTC." : "";
    const word = zone === "local" ? `Times are of ${own}.${charts}` : "Times are UTC.";
    if (byId("zone-word") && byId("zone-word").textContent !== word) byId("zone-word").textContent = word;
  }

  // ---- What the reader chooses, kept in this browser.

  function choose(name, then) {
    const field = byId(name), root = document.documentElement;
    field.value = root.dataset[name] ?? "";
    field.addEventListener("change", () => {
      if (field.value) root.dataset[name] = field.value;
      else delete root.dataset[name];
      try {
        if (field.value) localStorage.setItem(`genonaut-${name}`, field.value);
        else localStorage.removeItem(`genonaut-${name}`);
      } catch { /* It holds for this page. */ }
      then?.();
    });
  }

  // ---- Keys: they act on the row that has the focus, or on the job whose page this is.

  function onKey(event) {
    if (document.documentElement.dataset.keys === "off") return;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select")) return;
    const row = document.activeElement?.closest(".row");
    const press = (...names) => (row ?? document.querySelector("header.job"))?.querySelector(names.map((name) => `form[action$="/${name}"] button`).join())?.click();
    const does = {
      j: () => move(row, 1),
      k: () => move(row, -1),
      x: () => row?.querySelector("input[name=job]")?.click(),
      c: () => press("cancel"),
      r: () => press("retry", "again"),
      u: () => document.querySelector("#flash .undo button")?.click(),
      p: () => { if (poll()) setPaused(!paused); },
      "/": () => document.querySelector("input[name=q]")?.focus(),
      "?": () => byId("help").showModal(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  }

  function move(row, by) {
    const all = rows(), to = all[row ? all.indexOf(row) + by : 0];
    to?.querySelector(".title").focus();
    to?.scrollIntoView({ block: "nearest" });
  }

  choose("theme");
  choose("zone", clock);
  choose("keys");
  byId("view").hidden = false;
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  byId("close-help").addEventListener("click", () => byId("help").close());
  document.addEventListener("submit", act);
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest("form[method=post] button")) event.preventDefault();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.matches(".tick input")) onTick(event.target, event.shiftKey);
    else if (event.target.id === "show-held") letGo();
    else if (!event.target.closest("#view")) byId("view").open = false;
  });
  // Going back brings forms as they were when they were left.
  addEventListener("pageshow", () => {
    busy.clear();
    tellBusy();
    for (const field of [...ticks(), ...document.querySelectorAll(".search [name]")]) field.disabled = false;
    tellTicked();
  });
  toast(...byId("flash").children);
  skew = Date.parse(main().dataset.now) - Date.now() || 0;
  clock();
  setInterval(() => { if (!document.hidden) { clock(); if (poll()) tell(); } }, 1000);
  if (!poll()) return void (byId("connection").hidden = true);
  byId("pause").hidden = false;
  byId("pause").addEventListener("click", () => setPaused(!paused));
  document.addEventListener("visibilitychange", () => (document.hidden ? sleep() : wake()));
  // A page kept for "back" must not hold a connection, and is old when it is shown again.
  addEventListener("pagehide", sleep);
  addEventListener("pageshow", (event) => { if (event.persisted) wake(); });
  addEventListener("offline", () => drop());
  addEventListener("online", () => { answering = true; clearTimeout(retry); delay = 500; connect(); });
  if (!document.hidden) {
    lost = performance.now();
    connect();
    dirty(POLL_MS);
  } else stopped = true;
})();
