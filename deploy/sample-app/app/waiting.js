'use strict';
// Waiting with an end: pauses, deadlines (milliseconds of performance.now()), and what is known of a server.

const now = () => performance.now();
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, Math.max(0, ms)); });

class TookTooLong extends Error {}

/** Return what the promise gives, or reject with TookTooLong; the promise itself goes on. */
async function within(ms, promise, what) {
  let timer;
  const end = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new TookTooLong(`${what} took longer than ${Math.round(ms)} ms`)), ms);
  });
  try {
    return await Promise.race([promise, end]);
  } finally {
    clearTimeout(timer);
  }
}

/** What the last tries said of a server, as a sentence for /health; a change is logged once. */
class Reachability {
  #name;
  #problem = 'not asked yet';
  #since = now();

  constructor(name) {
    this.#name = name;
  }

  get ok() {
    return this.#problem === '';
  }

  works() {
    if (this.ok) return;
    this.#problem = '';
    console.log(`${this.#name} answers`);
  }

  fails(problem) {
    const isNews = this.#problem !== problem;
    if (this.ok) this.#since = now();
    this.#problem = problem;
    if (isNews) console.error(`${this.#name} does not answer: ${problem}`);
  }

  toString() {
    if (this.ok) return `${this.#name} reachable`;
    return `${this.#name} not reachable for ${Math.round((now() - this.#since) / 1000)} s (${this.#problem})`;
  }
}

module.exports = { now, pause, within, Reachability };
