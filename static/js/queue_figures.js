// A place in the queue as people read it: in words, and as a boat on its way to the lighthouse.

// How far the boat sails, in the units of its picture.
const WATER = 396;

/** Show the place and the estimate on the page; `first` is the place the way began at. Return both in words. */
export function showFigures(room, { place, eta_seconds: eta }, first) {
  const ordinal = inOrder(place);
  room.querySelector("[data-ordinal]").textContent = ordinal;
  room.querySelector("[data-before]").textContent = people(place - 1);
  showProgress(room, (first + 1 - place) / (first + 1));
  return { ordinal, eta: showEstimate(room, eta) };
}

/** Show in how many seconds the turn comes, and return it in words. */
export function showEstimate(room, seconds) {
  const words = inWords(seconds);
  room.querySelector("[data-about]").textContent = words;
  return words;
}

/** Show how much of the way is behind the person, 0 to 1. */
export function showProgress(room, share) {
  room.querySelector("[data-progress]").value = share;
  room.querySelector("[data-boat]").style.transform = `translateX(${Math.round(share * WATER)}px)`;
}

export function inWords(seconds) {
  const [number, unit] = seconds < 60 ? [seconds, "second"] : [Math.round(seconds / 60), "minute"];
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

function inOrder(number) {
  const ending = new Intl.PluralRules("en", { type: "ordinal" }).select(number);
  return `${number.toLocaleString("en")}${{ one: "st", two: "nd", few: "rd", other: "th" }[ending]}`;
}

function people(number) {
  if (number < 1) return "nobody";
  return number === 1 ? "1 person" : `${number.toLocaleString("en")} people`;
}
