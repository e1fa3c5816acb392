// The audit log: a mistake in the search gets the focus, and the newest page takes in what happens while it is open.

import { focusErrorSummary } from "./error_summary.js";
import { follow } from "./audit_tail.js";

focusErrorSummary();
const live = document.querySelector("[data-live]");
if (live) follow(live, document.querySelector("[data-live-table] tbody"));
