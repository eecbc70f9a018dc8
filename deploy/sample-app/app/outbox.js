'use strict';
// A transactional outbox: a committed listing whose message the broker has not confirmed is published again until it
// is. A message may come twice and is never lost; a listing has at most one message under way from this process.

const { now, pause, within } = require('./waiting');

const ROUND_MS = 1000;
const MOST = 500;
const DATABASE_MS = 5000;
const PAUSE_MS = 100;

function createOutbox(database, broker) {
  const underway = new Map(); // id -> promise of the confirm
  const confirmed = new Set(); // confirmed by the broker, not yet marked in the database
  let isMarking = false;
  let isClosed = false;

  function send({ id, key }) {
    if (!underway.has(id)) {
      const sending = broker.publish(String(id), Buffer.from(JSON.stringify({ id, key })))
        .then(() => { confirmed.add(id); mark(); })
        .finally(() => underway.delete(id));
      sending.catch(() => {}); // whoever waits for it is told; the outbox comes back to it
      underway.set(id, sending);
    }
    return underway.get(id);
  }

  /** Many marks become one statement: what is confirmed while one is being written goes with the next. */
  async function mark() {
    if (isMarking) return;
    isMarking = true;
    while (confirmed.size && !isClosed) {
      const ids = [...confirmed].slice(0, MOST);
      try {
        await database.markPublished(ids, now() + DATABASE_MS);
        ids.forEach((id) => confirmed.delete(id));
      } catch {
        await pause(PAUSE_MS);
      }
    }
    isMarking = false;
  }

  async function rounds() {
    // What was there a round ago and still is: younger ones are in the hands of the request that made them, here or in
    // another process.
    let known = new Set();
    for (; !isClosed; await pause(ROUND_MS)) {
      if (!broker.isConnected()) continue;
      try {
        const rows = await database.unpublished(MOST, now() + DATABASE_MS);
        for (const row of rows) if (known.has(row.id) && !confirmed.has(row.id)) send(row);
        known = new Set(rows.map((row) => row.id));
      } catch {
        // The database's state tells; the next round asks again.
      }
    }
  }
  rounds();

  return {
    /** Publish what was just committed. Return whether the broker has confirmed it by the deadline. */
    async publish(listing, deadline) {
      for (let left = deadline - now(); left > 0 && !isClosed; left = deadline - now()) {
        try {
          await within(left, send(listing), 'the confirm');
          return true;
        } catch {
          await pause(Math.min(PAUSE_MS, deadline - now()));
        }
      }
      return false;
    },
    close() {
      isClosed = true;
    },
  };
}

module.exports = { createOutbox };
