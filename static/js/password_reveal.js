// The button that shows a password, and hides it again before the form is sent.

export function offerReveal() {
  for (const button of document.querySelectorAll("[data-reveals]")) {
    const field = document.getElementById(button.dataset.reveals);
    const show = (visible) => {
      field.type = visible ? "text" : "password";
      button.textContent = visible ? "Hide" : "Show";
      button.setAttribute("aria-label", visible ? "Hide password" : "Show password");
    };
    button.addEventListener("click", () => show(field.type === "password"));
    // A browser remembers what was typed into a text field, and must never remember this.
    field.form.addEventListener("submit", () => show(false));
  }
}
