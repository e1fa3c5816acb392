// The box a message is written in: keeps what is typed through reloads and failures, and sends on Enter.
// A draft's name begins with the id of the person whose it is, and a colon.

const storageKey = (name) => `draft:${name}`;
const attempts = new Map();

// Storage can be full or switched off by the browser; then a draft lives as long as its page.
function storage(act) {
  try {
    return act(sessionStorage);
  } catch {
    return null;
  }
}

export function forgetDraft(name) {
  attempts.delete(name);
  storage((store) => store.removeItem(storageKey(name)));
  storage((store) => store.removeItem(storageKey(`${name}:key`)));
  storage((store) => store.removeItem(storageKey(`${name}:sent`)));
}

/** Note that `text` is on its way as the draft `name`; whether it arrives, only a later page can tell. */
export function noteSending(name, text) {
  storage((store) => store.setItem(storageKey(`${name}:sent`), text));
}

/** Forget the draft `name` if it was sent and is the message that `arrived`; what was never sent stays. */
export function forgetArrived(name, arrived) {
  const isArrived = (key) => storage((store) => store.getItem(storageKey(key))) === arrived;
  if (isArrived(name) && isArrived(`${name}:sent`)) forgetDraft(name);
}

// Whoever comes next in this tab, after somebody signed out, is shown nothing of theirs.
function forgetOthers(name) {
  const mine = storageKey(name.slice(0, name.indexOf(":") + 1));
  const isAnothers = (key) => key.startsWith(storageKey("")) && !key.startsWith(mine);
  storage((store) => Object.keys(store).filter(isAnothers).forEach((key) => store.removeItem(key)));
}

/** Keep the text of `box` under `name`, and put back what was kept unless the server sent a text of its own. */
export function keepDraft(box, name) {
  forgetOthers(name);
  // What the browser itself keeps of a page knows no person, and comes back with Back.
  box.autocomplete = "off";
  const kept = storage((store) => store.getItem(storageKey(name)));
  const keep = () => storage((store) => store.setItem(storageKey(name), box.value));
  if (box.value) keep(); // typed before this script was there
  else if (kept) box.value = kept;
  box.addEventListener("input", () => {
    if (box.value) keep();
    else forgetDraft(name);
  });
}

/** Let Enter send where there is a keyboard; on a phone, and while an input method composes, it is a new line. */
export function sendOnEnter(box) {
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (!window.matchMedia("(pointer: fine)").matches) return;
    event.preventDefault();
    if (box.value.trim()) box.form.requestSubmit();
  });
}

/** Give the idempotency key for posting `content`: the same text keeps its key, through reloads too, until sent. */
export function keyFor(name, content) {
  const stored = () => storage((store) => JSON.parse(store.getItem(storageKey(`${name}:key`))));
  const kept = attempts.get(name) ?? stored();
  if (kept?.content === content) return kept.key;
  const attempt = { content, key: newKey() };
  attempts.set(name, attempt);
  storage((store) => store.setItem(storageKey(`${name}:key`), JSON.stringify(attempt)));
  return attempt.key;
}

function newKey() {
  // randomUUID exists only where the page came over https or from this machine.
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
