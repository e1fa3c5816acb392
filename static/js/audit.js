// The audit log: a mistake in the filters gets the focus.

import { focusErrorSummary } from "./error_summary.js";

focusErrorSummary();
