// The steps of opening an account: each is to come, under way or done, as far as an answer has said so.

const SPOKEN = { next: "to come", now: "under way", done: "done" };

/** Show the state of steps: `states` maps a step's name to "next", "now" or "done"; others stay. */
export function showSteps(states) {
  for (const step of document.querySelectorAll("[data-step]")) {
    const state = states[step.dataset.step];
    if (!state || state === step.dataset.state) continue;
    step.dataset.state = state;
    step.querySelector("[data-step-spoken]").textContent = SPOKEN[state];
  }
}
