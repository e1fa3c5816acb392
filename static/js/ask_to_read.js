// Asking why staff need to read a conversation: a mistake gets the focus, and a double press is one reading.

import { focusErrorSummary } from "./error_summary.js";
import { submitOnce } from "./submit_once.js";

focusErrorSummary();
submitOnce(document.querySelector("[data-submit-once]"));
