'use strict';
// What a listing is: checks what a client sends and says in a sentence what is wrong with it.

const NUMBERS = { price: [1, 1e9], rooms: [1, 100], area: [1, 1e6] };
const TEXTS = { title: 120, city: 80 };

/** Return { fields } or { problem }. */
function readListing(body) {
  if (body === null || typeof body !== 'object' || Array.isArray(body)) {
    return { problem: 'the body must be a JSON object with title, city and price' };
  }
  const fields = {};
  for (const [name, longest] of Object.entries(TEXTS)) {
    const value = typeof body[name] === 'string' ? body[name].trim() : '';
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

module.exports = { readListing };
