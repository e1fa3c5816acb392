// The rule for passwords, asked of the server before one is relied on; the server decides again when it is used.

const ANSWER_WITHIN = 3_000;

/** Return how many characters the password in `field` lacks, counted as the server counts. */
export function missingCharacters(field) {
  return Math.max(0, field.minLength - [...field.value].length);
}

/** Ask at `address` what is wrong with a password, `{password, email, full_name}` with its owner's: a sentence, or null
 * where nothing is or no answer comes in time. */
export async function objectionTo(chosen, address) {
  try {
    const response = await fetch(address, {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify(chosen),
      credentials: "omit",
      signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    const { valid, message } = await response.json();
    return valid === false ? message : null;
  } catch {
    return null;
  }
}
