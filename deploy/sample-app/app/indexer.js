'use strict';
// The consumer: indexes what was published. A message that comes a second time changes nothing; it is acknowledged
// only when the database has committed, so that one whose consumer died comes again.

const { now, pause } = require('./waiting');

const DATABASE_MS = 5000;
const PAUSE_MS = 100;

/** Return { id, key }, or null for what no application of this kind has written. */
function read(content) {
  try {
    const { id, key } = JSON.parse(content.toString('utf8'));
    return Number.isSafeInteger(id) && typeof key === 'string' ? { id, key } : null;
  } catch {
    return null;
  }
}

/** `take(delivery)` is the broker's onMessage. */
function createIndexer(database) {
  let waiting = [];
  let isWorking = false;
  let isClosed = false;

  async function work() {
    isWorking = true;
    while (waiting.length && !isClosed) {
      // All that have come meanwhile at once; those of an ended connection come again on the next one.
      const batch = waiting.filter((delivery) => delivery.isOpen());
      waiting = [];
      const found = batch.map(({ content }) => read(content)).filter(Boolean);
      if (found.length < batch.length) console.error(`${batch.length - found.length} messages are no listings: left out`);
      try {
        if (found.length) await database.markIndexed(found, now() + DATABASE_MS);
        batch.forEach((delivery) => delivery.ack());
      } catch {
        waiting = [...batch, ...waiting];
        await pause(PAUSE_MS);
      }
    }
    isWorking = false;
  }

  return {
    take(delivery) {
      waiting.push(delivery);
      if (!isWorking) work();
    },
    close() {
      isClosed = true;
    },
  };
}

module.exports = { createIndexer };
