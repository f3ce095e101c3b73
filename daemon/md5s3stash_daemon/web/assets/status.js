// Keeps the page up to date: fetches it again and replaces what has changed, so that the page is the same with and without
// this script. The only text of its own is whether the daemon answers.
"use strict";

(() => {
  const PERIOD_MS = 2000;
  const LONGEST_MS = 30000;
  const ANSWER_MS = 8000;

  const toggle = document.getElementById("live");
  const isLive = toggle.querySelector("input");
  const connection = document.getElementById("connection");

  // The server's HTML of an element: on the page its times are rewritten.
  const sources = new WeakMap();
  let clockOffset = 0;
  let lostAt = null;
  let wait = PERIOD_MS;
  let timer = null;
  let isFetching = false;

  function remember(root) {
    for (const element of root.querySelectorAll("[data-live], [data-keyed] > *")) {
      sources.set(element, element.outerHTML);
    }
    clockOffset = Number(root.body.dataset.now) * 1000 - Date.now();
  }

  // The user has focus or a selection here: replace it later.
  function isInUse(element) {
    const selection = document.getSelection();
    return element.contains(document.activeElement)
      || (selection.type === "Range" && selection.containsNode(element, true));
  }

  function exchange(current, fresh) {
    if (sources.get(current) === sources.get(fresh) || isInUse(current)) return;
    sources.set(current, sources.get(fresh));
    current.replaceChildren(...fresh.childNodes);
  }

  // Inserts only new items and removes only old ones, so that pictures stay and nothing loses the focus.
  function merge(list, fresh) {
    const wanted = new Map(Array.from(fresh.children, (child) => [child.id, child]));
    for (const child of Array.from(list.children)) {
      if (!wanted.has(child.id) && !isInUse(child)) child.remove();
    }
    let before = list.firstElementChild;
    for (const [id, child] of wanted) {
      while (before && !wanted.has(before.id)) before = before.nextElementSibling;
      if (before && before.id === id) {
        exchange(before, child);
        before = before.nextElementSibling;
      } else {
        document.getElementById(id)?.remove();
        child.classList.add("new");
        list.insertBefore(child, before);
      }
    }
  }

  function update(fresh) {
    remember(fresh);
    for (const element of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(element.id);
      if (other) exchange(element, other);
    }
    for (const list of document.querySelectorAll("[data-keyed]")) {
      const other = fresh.getElementById(list.id);
      if (other) merge(list, other);
    }
  }

  function ago(seconds) {
    if (seconds < 5) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return `${Math.floor(seconds / 86400)} d ago`;
  }

  function say(element, text) {
    // Write only a different text: a screen reader may read out every change.
    if (element.textContent !== text) element.textContent = text;
  }

  function localise() {
    const now = Date.now() + clockOffset;
    for (const element of document.querySelectorAll("time")) {
      const at = new Date(element.dateTime);
      const isClock = element.closest("#asof, figcaption") !== null;
      say(element, isClock ? at.toLocaleTimeString("en-GB") : ago((now - at) / 1000));
      element.title = at.toLocaleString("en-GB");
    }
    for (const zone of document.querySelectorAll(".utc")) zone.remove();
  }

  async function look() {
    isFetching = true;
    try {
      const answer = await fetch("/", { signal: AbortSignal.timeout(ANSWER_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!fresh.getElementById("stashes")) throw new Error("another page");
      update(fresh);
      lostAt = null;
      wait = PERIOD_MS;
      say(connection, "");
    } catch {
      lostAt ??= new Date();
      wait = Math.min(2 * wait, LONGEST_MS);
      say(connection, `No answer since ${lostAt.toLocaleTimeString("en-GB")}: this page shows the state of that time. Retrying.`);
    }
    isFetching = false;
    localise();
    plan();
  }

  function plan(milliseconds = wait) {
    clearTimeout(timer);
    if (isLive.checked && !document.hidden && !isFetching) timer = setTimeout(look, milliseconds);
  }

  remember(document);
  localise();
  toggle.hidden = false;
  document.getElementById("plain").remove();
  isLive.addEventListener("change", () => plan(0));
  document.addEventListener("visibilitychange", () => plan(0));
  setInterval(() => document.hidden || localise(), 5000);
  plan();
})();
