// Following the log: asks every few seconds for what came since, and puts it where it belongs.

const EVERY = 5_000;
const AT_ONCE = 300;
const LONGEST_PAUSE = 60_000;
const ANSWER_WITHIN = 10_000;
const MOST_ROWS = 200;

/** Keep `body`, the rows of the newest page, up to date; `live` holds the words and the button beside it. */
export function follow(live, body) {
  const words = live.querySelector("[data-live-words]");
  const button = live.querySelector("[data-live-pause]");
  const usual = words.textContent;
  let address = live.dataset.tail;
  let failures = 0;
  let arrived = 0;
  let timer;

  const isPaused = () => button.getAttribute("aria-pressed") === "true";
  const later = (pause) => {
    clearTimeout(timer);
    if (!isPaused() && !document.hidden) timer = setTimeout(ask, pause);
  };

  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(!isPaused()));
    button.textContent = isPaused() ? "Go on" : "Pause";
    live.toggleAttribute("data-paused", isPaused());
    say(isPaused() ? "Paused" : usual);
    later(0);
  });
  // Nobody watches a page in the background; it catches up when it is looked at again.
  document.addEventListener("visibilitychange", () => later(0));
  later(EVERY);

  async function ask() {
    try {
      const response = await fetch(address, { signal: AbortSignal.timeout(ANSWER_WITHIN) });
      if (!response.ok || response.redirected) throw new Error(`${response.status}`);
      const came = readRows(await response.text());
      failures = 0;
      address = came.dataset.tail;
      takeIn(came.rows);
      later("more" in came.dataset ? AT_ONCE : EVERY);
    } catch {
      failures += 1;
      live.toggleAttribute("data-troubled", true);
      say("No answer just now. Trying again…");
      later(Math.min(LONGEST_PAUSE, EVERY * 2 ** failures));
    }
  }

  function takeIn(rows) {
    const fresh = [...rows].filter((row) => !body?.querySelector(`[data-event="${CSS.escape(row.dataset.event)}"]`));
    if (live.hasAttribute("data-troubled")) {
      live.removeAttribute("data-troubled");
      say(arrived ? inWords(arrived) : usual);
    }
    if (!fresh.length) return;
    if (!body) return location.reload(); // the first event of this search: the page has no table yet
    for (const row of fresh) place(row);
    for (const row of [...body.rows].slice(MOST_ROWS)) row.remove();
    arrived += fresh.length;
    say(inWords(arrived));
  }

  /** Put a row before the first one that is older. An event that was slow to commit is not always the newest. */
  function place(row) {
    const at = Number(row.dataset.at);
    const below = [...body.rows].find((other) => Number(other.dataset.at) <= at);
    row.dataset.fresh = "";
    body.insertBefore(row, below ?? null);
  }

  function say(text) {
    if (words.textContent !== text) words.textContent = text;
  }
}

function readRows(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.querySelector("tbody");
}

function inWords(count) {
  return `${count.toLocaleString("en")} new ${count === 1 ? "event" : "events"} since you came`;
}
