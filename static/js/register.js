// The registration form: says early whether an address is free and how strong a password is, and posts once.

import { clearErrors, focusErrorSummary, showErrorSummary, showTrouble } from "./error_summary.js";
import { look, post, showPage } from "./form_post.js";
import { offerReveal } from "./password_reveal.js";
import { missingCharacters } from "./password_rule.js";
import { strengthOf } from "./password_strength.js";
import { showSteps } from "./steps.js";
import { busyButton } from "./submit_once.js";
import { startWaiting } from "./wait.js";

const TYPING_PAUSE = 400;
const SPEAKING_PAUSE = 800;
const PAGE = "[data-register]";
const WAITING_PAGE = "[data-waiting]";

// The page's parts; found anew when the server has drawn the form again.
let form;
let email;
let password;
let button;

function prepare() {
  form = document.querySelector(PAGE);
  email = form.elements.email;
  password = form.elements.password;
  prepareSending();
  prepareAvailability();
  prepareStrength();
  focusErrorSummary();
  offerReveal();
}

/* Availability: a hint while typing. It never stops anybody; the answer to the form itself is what counts. */

let availability;
let pause;
let question;
let isFree = false;

function say(text, tone = "", link = null) {
  availability.dataset.tone = tone;
  availability.textContent = text;
  if (link) availability.append(" ", link);
}

function signInLink() {
  const link = document.createElement("a");
  link.href = availability.dataset.signIn;
  link.textContent = "Sign in instead?";
  return link;
}

/** What was probably meant, as a button that puts it in. */
function offer(address) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button button--plain button--small";
  button.textContent = `Use ${address}`;
  button.addEventListener("click", () => {
    email.value = address;
    email.dispatchEvent(new Event("input"));
    email.focus();
  });
  return button;
}

function looksComplete(address) {
  return /^\S+@\S+[.,]\S{2,}$/.test(address);
}

async function ask(address) {
  question = new AbortController();
  const mine = question;
  say("Checking this address…");
  let answer = { available: null };
  try {
    // Not in the address of the question, which routers log.
    const response = await fetch(email.dataset.availability, {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify({ email: address }),
      credentials: "omit",
      signal: AbortSignal.any([mine.signal, AbortSignal.timeout(5000)]),
    });
    answer = await response.json();
  } catch {
    // No answer, or none in time: whether the address is free is simply not known yet.
  }
  // An answer about an address that has been typed over since is dropped.
  if (mine !== question || address !== email.value.trim()) return;
  const meant = answer.suggestion ? offer(answer.suggestion) : null;
  if (answer.available === true) {
    say(meant ? `Did you mean ${answer.suggestion}?` : availability.dataset.free, meant ? "" : "good", meant);
    isFree = true;
    showCheck();
  } else if (answer.reason === "already_exists") say("This address already has an account.", "needs-you", signInLink());
  else if (answer.reason === "invalid_format") say(answer.message, "needs-you", meant);
  else say("");
}

function prepareAvailability() {
  availability = document.getElementById("email-availability");
  // Drawn anew, the form has the address that was asked about; what the server says of it is newer.
  if (email.hasAttribute("aria-invalid")) isFree = false;
  email.addEventListener("input", () => {
    clearTimeout(pause);
    question?.abort();
    question = undefined;
    say("");
    isFree = false;
    showCheck();
    const address = email.value.trim();
    if (looksComplete(address)) pause = setTimeout(ask, TYPING_PAUSE, address);
  });
}

/* Strength: bar and words follow every key; they are spoken only when typing stops. */

let speaking;

function prepareStrength() {
  const spoken = form.querySelector("[data-strength-spoken]");
  clearTimeout(speaking);
  password.addEventListener("input", () => {
    clearTimeout(speaking);
    const words = showStrength();
    speaking = setTimeout(() => {
      spoken.textContent = words;
    }, SPEAKING_PAUSE);
  });
}

/** Show how strong the password in the field is, and return the words for it. */
function showStrength() {
  const personal = [email.value, form.elements.full_name.value];
  const { score, words } = password.value
    ? strengthOf(password.value, password.minLength, personal)
    : { score: 0, words: "" };
  form.querySelector(".strength__meter").value = score;
  document.getElementById("password-strength").textContent = words;
  return words;
}

/* Before posting: what is plainly missing or wrong is said at once, without a way to the server and back. */

function isMissing(field) {
  if (field.type === "checkbox") return !field.checked;
  if (field === password) return missingCharacters(password) > 0;
  return !field.value.trim();
}

// The browser's own check is no help: it refuses addresses such as zoë@example.com, which the server takes.
function isMalformed(field) {
  return field === email && !/\S@\S/.test(field.value);
}

function mistakes() {
  const found = [];
  for (const field of form.querySelectorAll("[data-missing]")) {
    if (isMissing(field)) found.push({ field, text: field.dataset.missing });
    else if (isMalformed(field)) found.push({ field, text: field.dataset.malformed });
  }
  return found;
}

/** The form is checked when its address is free and nothing of it is wrong any more. */
function showCheck() {
  if (!button.isTaken()) showSteps({ check: isFree && !mistakes().length ? "done" : "next" });
}

/* Sending. The page stays, and with it the password, until the server has said what came of it. */

function prepareSending() {
  button = busyButton(form);
  const { take, giveBack, isTaken } = button;
  form.addEventListener("input", showCheck);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isTaken()) return;
    const found = mistakes();
    showCheck();
    if (found.length) {
      showErrorSummary(form, found);
      return;
    }
    clearErrors(form);
    const isChecked = form.querySelector('[data-step="check"]').dataset.state === "done";
    // The server does the rest in one go and answers at its end, so the rest is under way together.
    showSteps({ check: isChecked ? "done" : "now", secure: "now", open: "now" });
    const sent = post(form, PAGE);
    take();
    if (!(await goOn(await sent))) giveBack();
  });
}

/** Show what the server made of the form; say whether the page is on its way elsewhere. */
async function goOn(answer) {
  if (answer.kind === "moved") return follow();
  if (answer.kind === "page") showAgain(answer);
  else stop(answer);
  return false;
}

/** The form was taken: either there is a place to wait for, or the account is open, or there is a mail to read. */
async function follow() {
  const answer = await look(form.dataset.waitingRoom, WAITING_PAGE);
  if (answer.kind === "trouble") {
    stop(answer);
    return false;
  }
  if (answer.kind === "page") {
    const kept = password.value;
    showPage(answer.page);
    history.replaceState(null, "", form.dataset.waitingRoom);
    startWaiting(kept);
    return false;
  }
  showSteps({ check: "done", secure: "done", open: "done", done: "done" });
  // Whoever has an account is sent on from there, to the message that waits for them.
  location.assign(form.dataset.onward);
  return true;
}

/** The form came back with something to correct, or with the request to press again. */
function showAgain({ page }) {
  const kept = password.value;
  showPage(page);
  prepare();
  // Unless something was wrong with the password itself, nobody should have to type it twice.
  if (password.hasAttribute("aria-invalid")) return;
  password.value = kept;
  showStrength();
}

function stop(trouble) {
  showSteps({ check: "next", secure: "next", open: "next" });
  showTrouble(form, trouble);
}

prepare();
// The browser, or the server, may have put the address in.
if (looksComplete(email.value.trim()) && !email.hasAttribute("aria-invalid")) ask(email.value.trim());
