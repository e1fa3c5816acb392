// How hard a password is to guess, estimated in the page; nothing leaves the browser, and the server still decides.

const WORDS = [
  "",
  "Easy to guess. Add another word or two.",
  "Fair. One more word makes it strong.",
  "Strong.",
  "Very strong.",
];
const RUNS = "abcdefghijklmnopqrstuvwxyz 01234567890 qwertyuiop asdfghjkl zxcvbnm";
const COMMON = /passw[o0]rd|letmein|welcome|admin|iloveyou|monkey|dragon|football|capecontrol/g;
const CONSIDERED = 64;

/** Say how strong `password` is: {score: 0..4, words}. `personal` are texts a guesser would try first. */
export function strengthOf(password, minimum, personal) {
  const missing = minimum - [...password].length;
  if (missing > 0) {
    return { score: 0, words: `${missing} more character${missing === 1 ? "" : "s"} to go.` };
  }
  const bits = effectiveLength(password.slice(0, CONSIDERED).toLowerCase(), personal) * bitsPerCharacter(password);
  const score = bits < 40 ? 1 : bits < 60 ? 2 : bits < 85 ? 3 : 4;
  return { score, words: WORDS[score] };
}

// Characters that a guesser does not get for free: repeats, runs on the keyboard and known words count once.
function effectiveLength(text, personal) {
  let rest = text.replace(COMMON, "~");
  for (const known of personal.flatMap((value) => value.toLowerCase().split(/[\s@.]+/))) {
    if (known.length >= 3) rest = rest.replaceAll(known, "~");
  }
  let length = 0;
  for (let i = 0; i < rest.length; i += 1) {
    const pair = rest.slice(i - 1, i + 1);
    const isExpected = i > 0 && (pair[0] === pair[1] || RUNS.includes(pair));
    length += isExpected ? 0.15 : 1;
  }
  return Math.min(length, new Set(rest).size * 2);
}

function bitsPerCharacter(password) {
  const kinds = [/[a-z]/, /[A-Z]/, /\d/, /[^a-zA-Z\d\s]/, /\s/].filter((kind) => kind.test(password)).length;
  return 2.6 + kinds * 0.5;
}
