// Sends a form without leaving the page: says what came back, and shows a page of ours in the place of this one.

// No request goes unanswered for ten seconds; after twelve the answer is not coming.
const ANSWER_WITHIN = 12_000;

const UNANSWERED = {
  title: "No answer came",
  text: "Everything you filled in is still here. Please press the button again: it cannot open two accounts.",
};
const OFFLINE = {
  title: "You are offline",
  text: "Everything you filled in is still here. Press the button again when this device has a connection.",
};

/**
 * Send `form` and say what came back; one with an outdated token, since it was open for hours or somebody has signed in
 * meanwhile, goes with a fresh one: that of the answer, or of the page at `at`.
 * {kind: "moved"}, a redirect, which a script may not look into;
 * {kind: "page", status, page, retryAfter}, a page of ours that has `wanted`, a selector; seconds, or null;
 * {kind: "trouble", status, title, text, retryAfter}, anything else, in words. Never fails.
 */
export async function post(form, wanted, at = form.action) {
  const answer = await send(form, wanted);
  if (answer.status !== 400) return answer;
  const anew = answer.page ? answer : await look(at, wanted);
  const fresh = anew.page?.querySelector("#main input[name=csrf_token]");
  if (!fresh) return anew.kind === "moved" ? anew : answer;
  form.elements.csrf_token.value = fresh.value;
  return send(form, wanted);
}

function send(form, wanted) {
  return answerTo(form.action, wanted, { method: "POST", body: new URLSearchParams(new FormData(form)) });
}

/** Fetch a page; the answer is the same as that of `post`. */
export function look(address, wanted) {
  return answerTo(address, wanted, {});
}

async function answerTo(address, wanted, request) {
  try {
    const response = await fetch(address, {
      ...request,
      headers: { Accept: "text/html" },
      // What a redirect leads to is for the browser to load: a page fetched here would have used up its message.
      redirect: "manual",
      signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    if (response.type === "opaqueredirect") return { kind: "moved" };
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const answer = { status: response.status, retryAfter: retryAfter(response) };
    if (page.querySelector(`#main ${wanted}`)) return { kind: "page", page, ...answer };
    return { kind: "trouble", ...(wordsOf(page) ?? UNANSWERED), ...answer };
  } catch {
    return { kind: "trouble", status: 0, retryAfter: null, ...(navigator.onLine ? UNANSWERED : OFFLINE) };
  }
}

/** Return the seconds after which an answer wants to be asked again, or null. */
export function retryAfter(response) {
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return Number.isFinite(seconds) ? seconds : null;
}

// Our own error pages say what is the matter; a router's page between us and the person does not.
function wordsOf(page) {
  const title = page.querySelector("#main .trouble h1")?.textContent;
  const text = page.querySelector("#main .trouble .lead")?.textContent;
  return title && text ? { title, text } : null;
}

/** Put the main part and the title of `page`, parsed from an answer of ours, in the place of this page's. What stands
 * around it stays, also where the answer was made for somebody who has signed in meanwhile. */
export function showPage(page) {
  document.title = page.title;
  document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
  window.scrollTo({ top: 0 });
}
