// The page that confirms an address: a link works once, so its button is pressed once.

import { submitOnce } from "./submit_once.js";

submitOnce(document.querySelector("[data-submit-once]"));
