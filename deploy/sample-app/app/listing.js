'use strict';
// What a listing is: checks what a client sends and says in a sentence what is wrong with it.

const { randomUUID } = require('node:crypto');

const NUMBERS = { price: [1, 1e9], rooms: [1, 100], area: [1, 1e6] };
const TEXTS = { title: 120, city: 80 };

// What a new store begins with.
const SEED = [
  { title: 'Canal house with a roof terrace', city: 'Utrecht', price: 685000, rooms: 5, area: 142 },
  { title: 'Two-room flat near the station', city: 'Leiden', price: 298000, rooms: 2, area: 54 },
  { title: 'Farmhouse with an orchard', city: 'Deventer', price: 540000, rooms: 7, area: 210 },
  { title: 'New apartment on the harbour', city: 'Rotterdam', price: 432000, rooms: 3, area: 88 },
  { title: 'Terraced house, quiet street', city: 'Haarlem', price: 475000, rooms: 4, area: 112 },
  { title: 'Studio under the eaves', city: 'Groningen', price: 189000, rooms: 1, area: 31 },
];

/** Half of a surrogate pair cannot be stored: compared with what is, it would be another listing. */
const wellFormed = (text) => Buffer.from(text, 'utf8').toString('utf8');

/** Return { fields } or { problem }. */
function readListing(body) {
  if (body === null || typeof body !== 'object' || Array.isArray(body)) {
    return { problem: 'the body must be a JSON object with title, city and price' };
  }
  const fields = {};
  for (const [name, longest] of Object.entries(TEXTS)) {
    const value = typeof body[name] === 'string' ? wellFormed(body[name]).trim() : '';
    if (!value || value.length > longest) {
      return { problem: `${name} must be text of 1 to ${longest} characters` };
    }
    fields[name] = value;
  }
  for (const [name, [least, most]] of Object.entries(NUMBERS)) {
    if (body[name] === undefined && name !== 'price') continue;
    if (typeof body[name] !== 'number' || !(body[name] >= least && body[name] <= most)) {
      return { problem: `${name} must be a number from ${least} to ${most}` };
    }
    fields[name] = body[name];
  }
  return { fields };
}

/** Return { key }, the client's own or a new one for this request, or { problem }. */
function readKey(header) {
  if (header === undefined) return { key: randomUUID() };
  if (/^[\x21-\x7e]{1,64}$/.test(header)) return { key: header };
  return { problem: 'Idempotency-Key must be 1 to 64 ASCII characters without spaces' };
}

/** Whether a listing was made from these fields: a repeated request, and not another one under the same key. */
const isMadeOf = (listing, fields) =>
  [...Object.keys(TEXTS), ...Object.keys(NUMBERS)].every((name) => listing[name] === fields[name]);

module.exports = { SEED, readListing, readKey, isMadeOf };
