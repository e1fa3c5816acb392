// The list of conversations: the box that starts a new one keeps its draft.

import { keepDraft, keyFor, noteSending, sendOnEnter } from "./composer.js";
import { focusErrorSummary } from "./error_summary.js";

const form = document.querySelector("[data-composer]");
const box = form.elements.content;
const draft = form.dataset.draft;
let isSending = false;

keepDraft(box, draft);
sendOnEnter(box);
focusErrorSummary();

function prepareSending() {
  noteSending(draft, box.value);
  // Whether an answer will come nobody knows yet: the draft keeps its key until it has arrived, so that the same text
  // sent again is the same conversation, from a reloaded page too. Without text there is no draft to keep one with.
  if (box.value) form.elements.idempotency_key.value = keyFor(draft, box.value);
}

// A second press while the first is on its way would start a second conversation.
form.addEventListener("submit", (event) => {
  if (isSending) event.preventDefault();
  else prepareSending();
  isSending = true;
});
window.addEventListener("pageshow", () => {
  isSending = false;
});
