// How long ago something was: goes on while the page is open, on every page and for what comes onto it later.
//
// Nothing is announced: no such time stands in a live region.

const EVERY = 60_000;

// The words of the server's filter `relative`, in capecontrol/web/template_filters.py.
const STEPS = [
  [60, "second"],
  [60, "minute"],
  [24, "hour"],
  [7, "day"],
  [4.35, "week"],
  [12, "month"],
];

function goOn() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-relative]")) {
    const words = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== words) time.textContent = words;
  }
}

/** Say how long ago something was that is `amount` seconds old. */
export function ago(amount) {
  if (amount < 10) return "just now";
  for (const [size, unit] of STEPS) {
    if (amount < size) return inWords(amount, unit);
    amount /= size;
  }
  return inWords(amount, "year");
}

function inWords(amount, unit) {
  const count = Math.floor(amount);
  return `${count.toLocaleString("en")} ${count === 1 ? unit : `${unit}s`} ago`;
}

setInterval(goOn, EVERY);
// Nobody reads a page in the background; it is right again when it is looked at.
document.addEventListener("visibilitychange", goOn);
