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
