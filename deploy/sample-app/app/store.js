'use strict';
// Where listings live. In memory for now: a database takes this module's place behind the same promises, and a
// queue takes `onCreated`.

const SEED = [
  { title: 'Canal house with a roof terrace', city: 'Utrecht', price: 685000, rooms: 5, area: 142 },
  { title: 'Two-room flat near the station', city: 'Leiden', price: 298000, rooms: 2, area: 54 },
  { title: 'Farmhouse with an orchard', city: 'Deventer', price: 540000, rooms: 7, area: 210 },
  { title: 'New apartment on the harbour', city: 'Rotterdam', price: 432000, rooms: 3, area: 88 },
  { title: 'Terraced house, quiet street', city: 'Haarlem', price: 475000, rooms: 4, area: 112 },
  { title: 'Studio under the eaves', city: 'Groningen', price: 189000, rooms: 1, area: 31 },
];

/** The same methods as a store with a database behind it; each returns a promise. */
function createMemoryStore({ onCreated = async () => {} } = {}) {
  const listings = new Map();
  let lastId = 0;

  const insert = (fields) => {
    lastId += 1;
    const listing = { id: lastId, ...fields, created: new Date().toISOString() };
    listings.set(lastId, listing);
    return listing;
  };
  SEED.forEach(insert);

  return {
    kind: 'memory',
    async list() {
      return [...listings.values()].sort((a, b) => b.id - a.id);
    },
    async find(id) {
      return listings.get(id) ?? null;
    },
    async create(fields) {
      const listing = insert(fields);
      await onCreated(listing);
      return listing;
    },
    async health() {
      return { ok: true, message: `${listings.size} listings in memory` };
    },
    async close() {},
  };
}

module.exports = { createMemoryStore };
