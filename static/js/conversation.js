// A conversation: sends messages without leaving the page and shows replies as they are written.

import { forgetArrived, forgetDraft, keepDraft, keyFor, sendOnEnter } from "./composer.js";
import { focusErrorSummary } from "./error_summary.js";
import { closeMenusOutside } from "./menu.js";

const PENDING = new Set(["queued", "streaming"]);
const ANSWER_WITHIN = 12_000;
const FIRST_PAUSE = 2_000;
const LONGEST_PAUSE = 10_000;
const NOTE_STAYS = 8_000;
const NEAR_THE_END = 160;

const talk = document.querySelector("[data-conversation]");
const list = talk.querySelector("[data-messages]");
const form = talk.querySelector("[data-composer]");

/* What is on the page. */

const messages = () => [...list.querySelectorAll("[data-message-id]")];
const isPending = (article) => PENDING.has(article.dataset.status);

// The last message that will not change any more; everything after it is asked for again.
function lastSettled() {
  const all = messages();
  const firstPending = all.findIndex(isPending);
  return (firstPending < 0 ? all.at(-1) : all[firstPending - 1])?.dataset.messageId;
}

function isNearTheEnd() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - NEAR_THE_END;
}

function goToTheEnd() {
  window.scrollTo({ top: document.documentElement.scrollHeight });
}

function announce(text) {
  const region = talk.querySelector("[data-announcements]");
  region.textContent = "";
  // Emptied first and filled a moment later, so that the same words are spoken twice.
  setTimeout(() => {
    region.textContent = text;
  }, 100);
}

function timeOf(message) {
  const time = document.createElement("time");
  const when = new Date(message.created_at ?? Date.now());
  time.dateTime = when.toISOString();
  time.title = when.toLocaleString();
  time.dataset.relative = "";
  time.textContent = "just now";
  return time;
}

function articleOf(message) {
  const known = document.getElementById(`message-${message.id}`);
  if (known) return known;
  const template = talk.querySelector(`[data-message-template="${message.role}"]`);
  const article = template.content.firstElementChild.cloneNode(true);
  article.id = `message-${message.id}`;
  article.dataset.messageId = message.id;
  article.querySelector("[data-when]").replaceChildren(timeOf(message));
  list.querySelector("[data-quiet]")?.remove();
  list.append(article);
  return article;
}

/** Put a message of the API on the page, or what is new about it. */
function show(message, { follow = isNearTheEnd() } = {}) {
  if (!talk.querySelector(`[data-message-template="${message.role}"]`)) return;
  const article = articleOf(message);
  // What is settled stays as the page has it.
  if (!isPending(article)) return;
  article.dataset.status = message.status;
  const body = article.querySelector("[data-body]");
  if (message.role === "user") body.textContent = message.content;
  // The server's own rendering, which lets through only a short list of tags.
  else body.innerHTML = message.html ?? "";
  if (!isPending(article)) settle(article, message);
  if (follow) goToTheEnd();
}

function settle(article, message) {
  article.querySelector("[data-progress]").remove();
  const trouble = article.querySelector("[data-trouble]");
  trouble.textContent = message.error ?? trouble.dataset[message.status] ?? "";
  trouble.hidden = !trouble.textContent;
  if (message.role === "assistant") announce(trouble.textContent || "Reply received.");
}

function sayProgress(words) {
  for (const article of messages().filter(isPending)) {
    article.querySelector("[data-progress-words]").textContent = words;
  }
}

/* Following a reply: a stream where there is room for one, asking again and again where there is not. */

let isFollowing = false;
let pause = FIRST_PAUSE;

const later = (action) => setTimeout(action, pause);
const slowDown = () => {
  pause = Math.min(pause * 1.5, LONGEST_PAUSE);
};

function address(path) {
  const after = lastSettled();
  return `${talk.dataset.api}/${path}${after ? `?after=${encodeURIComponent(after)}` : ""}`;
}

function follow() {
  if (isFollowing || !messages().some(isPending)) return;
  isFollowing = true;
  pause = FIRST_PAUSE;
  listen();
}

function isDone() {
  if (messages().some(isPending)) return false;
  isFollowing = false;
  return true;
}

function listen() {
  const stream = new EventSource(address("events"));
  const leave = (next) => {
    stream.close();
    if (!isDone()) next();
  };
  stream.addEventListener("message", (event) => {
    pause = FIRST_PAUSE;
    show(JSON.parse(event.data));
  });
  // A stream ends with its reply, or after a while of its own accord: then the next one takes over.
  stream.addEventListener("end", () =>
    leave(() => {
      later(listen);
      slowDown();
    }),
  );
  stream.addEventListener("error", () => leave(poll));
}

async function poll() {
  try {
    const response = await fetch(address("messages"), {
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    if (response.status === 401 || response.status === 404) {
      sayProgress("This page can no longer see the conversation. Reload it to go on.");
      isFollowing = false;
      return;
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    const answer = await response.json();
    for (const message of answer.messages) show(message);
    sayProgress("The Guide is looking it up…");
  } catch {
    sayProgress("No answer just now. Trying again…");
  }
  slowDown();
  if (!isDone()) later(poll);
}

/* Sending: the text stays in the box until the server has said that it is stored. */

function prepareComposer() {
  const box = form.elements.content;
  const button = form.querySelector("button[type=submit]");
  const trouble = form.querySelector("[data-composer-error]");
  const draft = form.dataset.draft;
  let isSending = false;

  const setBusy = (busy) => {
    isSending = busy;
    box.readOnly = busy;
    button.setAttribute("aria-busy", String(busy));
  };

  function complain(text, link) {
    const words = document.createElement("p");
    words.textContent = text;
    trouble.replaceChildren(words, link);
  }

  function again() {
    const button = document.createElement("button");
    button.type = "submit";
    button.className = "button button--quiet button--small";
    button.textContent = "Try again";
    return button;
  }

  function signIn() {
    const link = document.createElement("a");
    link.href = talk.dataset.signIn;
    link.textContent = "Sign in";
    return link;
  }

  async function send() {
    const content = box.value;
    if (isSending) return;
    if (!content.trim()) {
      box.focus();
      return;
    }
    trouble.replaceChildren();
    setBusy(true);
    try {
      const response = await fetch(`${talk.dataset.api}/messages`, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          Accept: "application/json",
          "Idempotency-Key": keyFor(draft, content),
        },
        body: JSON.stringify({ content }),
        signal: AbortSignal.timeout(ANSWER_WITHIN),
      });
      const answer = await response.json();
      if (response.ok) {
        arrived(answer);
      } else if (response.status === 401) {
        complain("You have been signed out. Your text is kept, and will be here when you come back.", signIn());
      } else {
        complain(answer.detail ?? "The message was not sent. Your text is kept.", again());
      }
    } catch {
      complain("The message could not be sent: no answer came. Your text is kept.", again());
    } finally {
      setBusy(false);
      box.focus();
    }
  }

  function arrived(answer) {
    box.value = "";
    forgetDraft(draft);
    show(answer.message, { follow: true });
    if (answer.reply) show(answer.reply, { follow: true });
    follow();
  }

  keepDraft(box, draft);
  sendOnEnter(box);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
}

// A note such as "Renamed." stands over the messages; it goes again, unless it offers something to press.
function putNotesAway() {
  for (const note of document.querySelectorAll(".flash:not(:has(form))")) {
    if (!talk.contains(note)) setTimeout(() => note.remove(), NOTE_STAYS);
  }
}

forgetArrived(talk.dataset.startDraft, list.querySelector('[data-role="user"] [data-body]')?.textContent);
closeMenusOutside();
putNotesAway();
focusErrorSummary();
if (form) prepareComposer();
// A title that was refused is what the page is about, and has the focus.
if (!talk.querySelector("[autofocus]") && ["", "#latest"].includes(location.hash)) goToTheEnd();
follow();
