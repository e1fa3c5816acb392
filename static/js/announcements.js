// Speaking to who listens to the page: politely, and at most every ten seconds unless something is asked of the person.

const SPEAK_EVERY = 10_000;

let spokeAt = Date.now();
let timer;

/** Say `text` in the page's region for it; of what was still to be said, only the newest is. */
export function speak(text, isUrgent = false) {
  clearTimeout(timer);
  const pause = isUrgent ? 100 : Math.max(100, spokeAt + SPEAK_EVERY - Date.now());
  timer = setTimeout(() => {
    spokeAt = Date.now();
    const region = document.querySelector("[data-announcements]");
    if (region) region.textContent = text;
  }, pause);
}
