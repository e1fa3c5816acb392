// The list of conversations: the box that starts a new one keeps its draft.

import { keepDraft, noteSending, sendOnEnter } from "./composer.js";
import { focusErrorSummary } from "./error_summary.js";

const form = document.querySelector("[data-composer]");
const box = form.elements.content;
let isSending = false;

keepDraft(box, form.dataset.draft);
sendOnEnter(box);
focusErrorSummary();

// A second press while the first is on its way would start a second conversation.
form.addEventListener("submit", (event) => {
  if (isSending) event.preventDefault();
  else noteSending(form.dataset.draft, box.value);
  isSending = true;
});
window.addEventListener("pageshow", () => {
  isSending = false;
});
