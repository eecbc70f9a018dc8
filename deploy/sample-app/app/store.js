'use strict';
// The store in memory, for an application without a database: nothing outlives the process.

const { SEED } = require('./listing');

/** The same methods as the durable store (durable.js); each returns a promise, and none needs its deadline. */
function createMemoryStore() {
  const listings = new Map();
  const byKey = new Map();

  const insert = (fields, key) => {
    const listing = { id: listings.size + 1, ...fields, created: new Date().toISOString(), indexed: true };
    listings.set(listing.id, listing);
    byKey.set(key, listing);
    return listing;
  };
  SEED.forEach((fields, number) => insert(fields, `seed-${number + 1}`));

  return {
    async list() {
      return [...listings.values()].sort((a, b) => b.id - a.id);
    },
    async find(id) {
      return listings.get(id) ?? null;
    },
    /** Return the listing with this key, which is a new one unless the key was there before. */
    async create(fields, key) {
      return { listing: byKey.get(key) ?? insert(fields, key), isConfirmed: true };
    },
    health() {
      return { ok: true, message: `${listings.size} listings in memory` };
    },
    async close() {},
  };
}

module.exports = { createMemoryStore };
