// Sends a form once: shows that it is being worked on, and gives the button back when the page comes back.

// No request goes unanswered for ten seconds; after twelve the browser itself has given up or been stopped.
const GIVE_BACK_AFTER = 12_000;

/**
 * Return what takes the form's button away while it is worked on: {take, giveBack, isTaken}. It is also said to who
 * listens to the page, unless `take` is told to be quiet: what a page does by itself asks for no attention.
 */
export function busyButton(form) {
  const button = form.querySelector("button[data-busy]");
  const status = form.querySelector("[data-busy-status]");
  let words = button.textContent;
  let timer;

  const giveBack = () => {
    if (!timer) return;
    clearTimeout(timer);
    timer = undefined;
    window.removeEventListener("pageshow", giveBack);
    button.disabled = false;
    button.removeAttribute("aria-busy");
    button.textContent = words;
    status.textContent = "";
  };

  const take = ({ isQuiet = false } = {}) => {
    if (timer) return;
    words = button.textContent;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    button.textContent = button.dataset.busy;
    if (!isQuiet) status.textContent = button.dataset.busy;
    timer = setTimeout(giveBack, GIVE_BACK_AFTER);
    // Going back shows the page as it was left, its button still busy. Only until then: the window outlives the form
    // that is drawn anew, and would keep it.
    window.addEventListener("pageshow", giveBack);
  };

  return { take, giveBack, isTaken: () => timer !== undefined };
}

export function submitOnce(form) {
  const { take } = busyButton(form);
  form.addEventListener("submit", (event) => {
    if (!event.defaultPrevented) take();
  });
}
