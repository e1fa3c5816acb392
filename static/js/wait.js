// The waiting room: asks how far the queue has come, and at its turn opens the account with the password it was given.

import { speak } from "./announcements.js";
import { clearErrors, focusErrorSummary, setTitle, showErrorSummary } from "./error_summary.js";
import { look, post, retryAfter, showPage } from "./form_post.js";
import { offerReveal } from "./password_reveal.js";
import { missingCharacters, objectionTo } from "./password_rule.js";
import { inWords, showEstimate, showFigures, showProgress } from "./queue_figures.js";
import { showSteps } from "./steps.js";
import { busyButton } from "./submit_once.js";
import { endTurn, startTurn } from "./turn.js";

const PAGE = "[data-waiting]";
const SHORTEST_PAUSE = 1;
// After trouble; who is told where they stand asks again when the server says so, however late that is.
const LONGEST_PAUSE = 30;
const LATEST_BY = 2;
const KEPT_BY_MORE_THAN = 5_000;
const ESTIMATE_AGES_EVERY = 10_000;
const ANSWER_WITHIN = 12_000;
const TOLD_WITHIN = 2_000;
const LEFT_WITHIN = 12;

// Kept here and nowhere else: not in storage, not in a cookie. A reload forgets it, and the page asks again.
let password = "";

let room;
let form;
let button;
let place;
let lookTimer;
let aging;
let failures = 0;
let isSending = false;
let isLeaving = false;
let isSendingSaid = false;

/** Take up the waiting page that has come in the place of the form; `kept` is the password typed into that. */
export function startWaiting(kept) {
  password = kept;
  document.querySelector("[data-opens-account]")?.remove();
  takeUp();
  room.querySelector("[data-heading]").focus();
}

/** Take up the page as the server has drawn it. What it says is shown at once and acted upon after `pause` seconds. */
function takeUp(pause = 0) {
  room = document.querySelector(PAGE);
  form = room.querySelector("[data-finish]");
  button?.giveBack();
  button = busyButton(form);
  place = undefined;
  isSending = false;
  recall();
  prepareForms();
  const { status, place: number, eta, left, poll } = room.dataset;
  show({ status, place: Number(number), eta_seconds: Number(eta), seconds_left: Number(left) });
  focusErrorSummary();
  if (!pause) act(Number(poll));
  else later(password && status === "ready" ? finish : askForPlace, Math.min(LONGEST_PAUSE, pause));
}

/* What a reload must not forget stands in the tab's history: how far the way was. */

let journey;

function recall() {
  const { ticket, place: number } = room.dataset;
  journey = history.state?.ticket === ticket ? history.state : { ticket, first: Number(number) };
}

function rememberFirst(number) {
  journey = { ...journey, first: Math.max(journey.first, number) };
  history.replaceState(journey, "");
}

/* Asking for the place: at the pace the server sets, and more slowly while it does not answer. */

function later(step, seconds) {
  clearTimeout(lookTimer);
  // A little late each time, so that people who came together do not ask together for ever; not too late for the turn.
  const pause = Math.max(SHORTEST_PAUSE, seconds);
  lookTimer = setTimeout(step, 1000 * (pause + Math.random() * Math.min(pause / 4, LATEST_BY)));
}

/** Nobody waits any more for what was asked from the page `asked`. */
const isTooLateFor = (asked) => asked !== room || isSending || isLeaving;

function fetchPlace({ api, ticket }, within = ANSWER_WITHIN) {
  return fetch(api, {
    headers: { Accept: "application/json", "X-Registration-Ticket": ticket },
    credentials: "omit",
    signal: AbortSignal.timeout(within),
  });
}

async function askForPlace() {
  const asked = room;
  try {
    const response = await fetchPlace(asked.dataset);
    if (isTooLateFor(asked)) return;
    if (response.status === 422) return leaveFor(location.pathname);
    const pause = retryAfter(response);
    if (!response.ok) return complain(pause);
    const answer = await response.json();
    if (isTooLateFor(asked)) return;
    failures = 0;
    // At work at the turn, the same trouble may come again, and is not said again.
    if (answer.status !== "ready" || !password) say("");
    // Left in another tab, this browser keeps no form any more; by another browser, it does. The server knows which.
    if (answer.was_given_up) return leaveFor(`${location.pathname}?given_up`);
    if (answer.status === "expired" && !(await isKeptHere())) return leaveFor(`${location.pathname}?over`);
    if (isTooLateFor(asked)) return;
    // What the page came with, that nobody could look, is answered now.
    if (place.status === "unknown") clearErrors(form);
    show(answer);
    act(pause ?? SHORTEST_PAUSE);
  } catch {
    if (!isTooLateFor(asked)) complain(null);
  }
}

/** Say whether this browser still keeps a form that waits: for an hour it does, and then a redirect leads away. */
async function isKeptHere() {
  return (await look(form.action, PAGE)).kind !== "moved";
}

function complain(pause) {
  failures += 1;
  if (failures > 1) say("No answer just now. Your place is kept; trying again…");
  lookAgain(Math.max(pause ?? 0, SHORTEST_PAUSE * 2 ** failures));
}

function act(pause) {
  // An account that is open although its answer was lost: sent again, the same form signs its owner in.
  if (password && ["ready", "done"].includes(place.status)) finish();
  else if (place.status === "done") leaveFor(room.dataset.done);
  else if (place.status !== "expired") later(askForPlace, pause);
}

function lookAgain(seconds) {
  later(askForPlace, Math.min(LONGEST_PAUSE, seconds));
}

function leaveFor(address) {
  clearTimeout(lookTimer);
  endTurn(room);
  location.assign(address);
}

/* Finishing: the form of the page, sent with the password typed or kept. */

function prepareForms() {
  offerReveal();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isSending || button.isTaken()) return;
    const field = form.elements.password;
    clearErrors(form);
    const text = field.value ? missingCharacters(field) && field.dataset.missing : "Type your password once more.";
    if (text) showErrorSummary(form, [{ field, text }]);
    else if (place.status === "waiting") checkForTheTurn(field);
    else goOnWith(field.value);
  });
  const keep = room.querySelector("[data-keep]");
  keep.addEventListener("submit", (event) => {
    event.preventDefault();
    keepTurn(keep);
  });
  room.querySelector("[data-leave]").addEventListener("submit", stopForLeaving);
}

/** A password that would be refused at the turn is refused now: at the turn, nobody may be there to choose another. */
async function checkForTheTurn(field) {
  const chosen = field.value;
  button.take();
  const { email, name: full_name, check } = room.dataset;
  const text = await objectionTo({ password: chosen, email, full_name }, check);
  if (field.form !== form || isLeaving) return;
  button.giveBack();
  setStatus(place.status);
  if (text) showErrorSummary(form, [{ field, text }]);
  else if (!isSending) goOnWith(chosen);
}

function goOnWith(chosen) {
  password = chosen;
  if (place.status === "waiting") keepForTheTurn();
  else send();
}

function keepForTheTurn() {
  form.elements.password.value = "";
  setStatus("waiting");
  room.querySelector("[data-heading]").focus();
  speak("Keep this page open: at your turn it opens your account by itself.", true);
}

function finish() {
  form.elements.password.value = password;
  send({ isByItself: true });
}

async function send({ isByItself = false } = {}) {
  clearTimeout(lookTimer);
  isSending = true;
  const hadFocus = isFocusHere();
  const sent = post(form, PAGE);
  showSending(isByItself);
  const answer = await sent;
  if (isLeaving) return;
  if (answer.kind === "moved") {
    password = "";
    // A redirect also follows what was refused; the ticket tells.
    if (await isOpen()) showSteps({ wait: "done", secure: "done", open: "done", done: "done" });
    leaveFor(room.dataset.onward);
  } else if (answer.kind === "page") {
    takeUpAnswer(answer, hadFocus);
  } else {
    recover(answer);
  }
}

/** Say whether the account is open, as far as the ticket tells in a moment: nobody is kept here for it. */
async function isOpen() {
  try {
    const response = await fetchPlace(room.dataset, TOLD_WITHIN);
    return (await response.json()).status === "done";
  } catch {
    return false;
  }
}

function showSending(isByItself) {
  const hadFocus = isFocusHere();
  button.take({ isQuiet: isByItself });
  if (place.status === "expired") return;
  setStatus(place.status);
  keepFocus(hadFocus);
  // The server does both in one go and answers at its end.
  showSteps({ wait: "done", secure: "now", open: "now" });
  if (!isSendingSaid) speak("It is your turn. Opening your account.", true);
  isSendingSaid = true;
}

const isFocusHere = () => room.contains(document.activeElement);

/** Where what had the focus has gone or is hidden, nobody should have to look for the place again. */
function keepFocus(hadFocus) {
  const { activeElement } = document;
  const isLost = activeElement === document.body || !activeElement.checkVisibility();
  if (hadFocus && isLost) room.querySelector("[data-heading]").focus();
}

function takeUpAnswer({ page, status, retryAfter: pause }, hadFocus = isFocusHere()) {
  // Only a page that asks to wait, or to come again, has nothing against the password; and only one with the same form,
  // since in another tab another may have been sent.
  const mayComeAgain = [429, 503].includes(status) && isSameForm(page);
  if (!mayComeAgain) password = "";
  failures = 0;
  if (mayComeAgain && isSameTurn(page)) {
    tryAgain(pause ?? SHORTEST_PAUSE);
    return;
  }
  showPage(page);
  takeUp(mayComeAgain ? (pause ?? SHORTEST_PAUSE) : 0);
  keepFocus(hadFocus);
}

const isSameForm = (page) => page.querySelector(PAGE).dataset.form === room.dataset.form;

function isSameTurn(page) {
  const { status, ticket } = page.querySelector(PAGE).dataset;
  return place.status === "ready" && status === "ready" && ticket === room.dataset.ticket;
}

/** The page says nothing new: it stays as it is, so that nothing is read out anew each time. */
function tryAgain(pause) {
  isSending = false;
  button.giveBack();
  room.querySelector("[data-retrying]").hidden = false;
  later(finish, pause);
}

/** Nothing usable came back: say so, and ask for the place again, which leads here once more while it is our turn. */
function recover(answer) {
  // Not even a fresh token helps: the page anew, or what has come in its place.
  if (answer.status === 400) return leaveFor(location.pathname);
  isSending = false;
  failures += 1;
  button.giveBack();
  showSteps({ secure: "next", open: "next" });
  say(place.status === "expired" ? `${answer.title}. ${answer.text}` : `${answer.title}. Trying again…`);
  if (place.status !== "expired") lookAgain(Math.max(answer.retryAfter ?? 0, SHORTEST_PAUSE * failures));
}

/** Until it is answered that the place was given up, nothing is sent for it, however long the answer takes. */
function stopForLeaving() {
  isLeaving = true;
  password = "";
  form.elements.password.value = "";
  clearInterval(aging);
  endTurn(room);
  later(() => {
    isLeaving = false;
    isSending = false;
    button.giveBack();
    askForPlace();
  }, LEFT_WITHIN);
}

/* Showing it. */

function show(answer) {
  const before = place;
  place = answer;
  setStatus(answer.status);
  if (answer.status === "waiting") showWaiting(before);
  if (answer.status === "ready") (before?.status === "ready" ? followTurn : showTurn)();
  if (answer.status === "expired" && before?.status !== "expired") showExpired(before);
}

/** Show the parts of the page that belong to `status`, which is the server's word. */
function setStatus(status) {
  // With the password at hand there is nothing to ask at the turn: the page is at work until it is through.
  const shown = password && ["ready", "done"].includes(status) ? "working" : status;
  for (const part of room.querySelectorAll("[data-when]")) {
    part.hidden = !part.dataset.when.split(" ").includes(shown);
  }
  // Who has reloaded may type the password while waiting, and need not watch for the turn.
  if (shown === "waiting") form.hidden = Boolean(password);
  for (const part of room.querySelectorAll("[data-if-kept]")) part.hidden = !password;
  for (const part of room.querySelectorAll("[data-unless-kept]")) part.hidden = Boolean(password);
  const submit = form.querySelector("button[data-busy]");
  if (!button.isTaken()) submit.textContent = submit.dataset[`${shown}Words`] ?? submit.textContent;
  if (shown !== "ready") endTurn(room);
}

function showWaiting(before) {
  isSendingSaid = false;
  rememberFirst(place.place);
  const { ordinal, eta } = showFigures(room, place, journey.first);
  entitle(`${ordinal} in line`, `You are ${ordinal} in line`);
  showSteps({ wait: "now", secure: "next", open: "next" });
  if (before && before.place !== place.place) speak(`${ordinal} in line. Your turn comes in about ${eta}.`);
  letTheEstimateAge(Date.now());
}

/** Between two answers, which may be minutes apart, the estimate gets shorter by the time that has passed. */
function letTheEstimateAge(toldAt) {
  const told = place;
  clearInterval(aging);
  aging = setInterval(() => {
    if (failures > 1) return; // nobody has said since that the line moves
    if (place === told) showEstimate(room, Math.max(1, told.eta_seconds - Math.round((Date.now() - toldAt) / 1000)));
    else clearInterval(aging);
  }, ESTIMATE_AGES_EVERY);
}

function showTurn() {
  entitle("It is your turn");
  showProgress(room, 1);
  const state = password ? "now" : "next";
  showSteps({ wait: "done", secure: state, open: state });
  if (password) return;
  countDown(place.seconds_left);
  speak("It is your turn. Type your password to open your account.", true);
  form.elements.password.focus();
}

function showExpired(before) {
  // What was wrong before is over; what the server says with its page is not.
  if (before) clearErrors(form);
  isSendingSaid = false;
  form.elements.password.value ||= password;
  // A place may also have been given up, which only a page from the server says.
  const words = before ? "Your turn has passed" : room.querySelector("[data-heading]").textContent.trim();
  entitle(words);
  showSteps({ wait: "next", secure: "next", open: "next" });
  speak(`${words}. You can take a new place.`, true);
}

function entitle(words, heading = words) {
  room.querySelector("[data-heading]").textContent = heading;
  setTitle(`${words} · Cape Control`);
}

function say(text) {
  const note = room.querySelector("[data-trouble]");
  if (note.textContent !== text) note.textContent = text;
}

/* The turn, for who has yet to type the password. */

const turnSeconds = () => Number(room.dataset.turn);

let turnEnds;

function countDown(seconds) {
  turnEnds = Date.now() + seconds * 1000;
  startTurn(room, turnEnds);
}

/** The turn may have been kept in another tab. By less than that nothing is begun anew: its warning would be, too. */
function followTurn() {
  const isKept = Date.now() + place.seconds_left * 1000 > turnEnds + KEPT_BY_MORE_THAN;
  if (!password && !isSending && isKept) countDown(place.seconds_left);
}

async function keepTurn(keep) {
  const answer = await post(keep, PAGE, form.action);
  if (place.status !== "ready" || isLeaving) return;
  if (answer.kind === "page") {
    takeUpAnswer(answer);
    return;
  }
  if (answer.kind === "trouble") {
    say("That did not reach us. Please press “Keep my turn” again.");
    return;
  }
  const isKept = await isKeptHere();
  if (place.status !== "ready" || isLeaving) return;
  if (!isKept) {
    leaveFor(`${location.pathname}?over`);
    return;
  }
  say("");
  countDown(turnSeconds());
  speak(`Your turn is kept for another ${inWords(turnSeconds())}.`, true);
}

// Going back shows the page as it was left, still at work on something long since answered.
window.addEventListener("pageshow", (event) => {
  if (event.persisted && (isSending || isLeaving)) location.reload();
});

if (document.querySelector(PAGE)) takeUp();
