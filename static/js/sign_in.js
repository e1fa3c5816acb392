// The sign-in form: shows the password on request and posts once.

import { focusErrorSummary } from "./error_summary.js";
import { offerReveal } from "./password_reveal.js";
import { submitOnce } from "./submit_once.js";

focusErrorSummary();
offerReveal();
submitOnce(document.querySelector("[data-submit-once]"));
