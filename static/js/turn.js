// Somebody's turn: kept for half a minute, counted down on the page, with a warning before it is over.

import { inWords } from "./queue_figures.js";

const WARN_BEFORE = 10;

let timer;
let isWarned;

/** Count down to `ends`, in milliseconds since 1970. */
export function startTurn(room, ends) {
  endTurn(room);
  isWarned = false;
  const show = () => showTimeLeft(room, Math.max(0, Math.round((ends - Date.now()) / 1000)));
  show();
  timer = setInterval(show, 1000);
}

export function endTurn(room) {
  clearInterval(timer);
  room.querySelector("[data-turn-warning]").textContent = "";
  delete room.querySelector("[data-turn-note]").dataset.ending;
}

/**
 * Return when a turn just heard of ends. It came at some moment since `seenWaiting`, the last answer that said
 * otherwise; to be sure, at the first. There is always time for the warning.
 */
export function endOfTurn(lastsSeconds, seenWaiting = Date.now()) {
  return Math.max(seenWaiting + lastsSeconds * 1000, Date.now() + WARN_BEFORE * 1000);
}

function showTimeLeft(room, left) {
  room.querySelector("[data-turn-words]").textContent = left
    ? `Your turn is kept for ${inWords(left)}. Need longer?`
    : "Your turn is about to pass.";
  if (left > WARN_BEFORE || isWarned) return;
  isWarned = true;
  room.querySelector("[data-turn-note]").dataset.ending = "";
  room.querySelector("[data-turn-warning]").textContent =
    `Your turn ends in ${inWords(left)}. Press “Keep my turn” if you need longer.`;
}
