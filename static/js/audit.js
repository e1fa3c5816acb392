// The audit log: a mistake in the search gets the focus, the newest page takes in what happens while it is open, and
// times go on.

import { focusErrorSummary } from "./error_summary.js";
import { follow } from "./audit_tail.js";
import { keepTimes } from "./relative_times.js";

focusErrorSummary();
const live = document.querySelector("[data-live]");
if (live) follow(live, document.querySelector("[data-live-table] tbody"));
const events = document.querySelector("table.events");
if (events) keepTimes(events);
