// The list of mistakes above a form: gives it the focus when the page arrives with one, and draws one before a post.

const WRONG = "Error: ";

export function focusErrorSummary() {
  document.querySelector("[data-error-summary]")?.focus();
}

/** Give the page a title, by default its own, that says as the server's does whether there is a list of mistakes. */
export function setTitle(words = document.title) {
  const isWrong = Boolean(document.querySelector("[data-error-summary]"));
  document.title = (isWrong ? WRONG : "") + (words.startsWith(WRONG) ? words.slice(WRONG.length) : words);
}

/** Put a summary of `mistakes`, each {field, text}, above the form and move the focus to it. */
export function showErrorSummary(form, mistakes) {
  clearErrors(form);
  const list = document.createElement("ul");
  for (const { field, text } of mistakes) {
    const link = document.createElement("a");
    link.href = `#${field.id}`;
    link.textContent = text;
    const item = document.createElement("li");
    item.append(link);
    list.append(item);
    showFieldError(field, text);
  }
  putSummary(form, "Please look at this again", list);
}

/** Say above the form what went wrong with sending it, and move the focus there. */
export function showTrouble(form, { title, text }) {
  clearErrors(form);
  const words = document.createElement("p");
  words.textContent = text;
  putSummary(form, title, words);
}

function putSummary(form, titleWords, content) {
  const title = document.createElement("h2");
  title.className = "error-summary__title";
  title.textContent = titleWords;
  const summary = document.createElement("div");
  summary.className = "error-summary";
  summary.setAttribute("role", "alert");
  summary.tabIndex = -1;
  summary.dataset.errorSummary = "";
  summary.append(title, content);
  form.before(summary);
  setTitle();
  summary.focus();
}

function showFieldError(field, text) {
  const error = document.createElement("p");
  error.className = "field__error";
  error.id = `${field.id}-error`;
  error.textContent = text;
  const frame = field.closest(".field");
  frame.classList.add("field--wrong");
  (field.closest(".password, .check, .choices__cards") ?? field).before(error);
  field.setAttribute("aria-invalid", "true");
  const described = (field.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);
  if (!described.includes(error.id)) field.setAttribute("aria-describedby", [...described, error.id].join(" "));
}

export function clearErrors(form) {
  document.querySelector("[data-error-summary]")?.remove();
  setTitle();
  for (const error of form.querySelectorAll(".field__error")) error.remove();
  for (const frame of form.querySelectorAll(".field--wrong")) frame.classList.remove("field--wrong");
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}
