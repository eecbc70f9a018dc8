'use strict';
// The store with the database and the broker behind it: the same promises as the one in memory.

const { createBroker } = require('./broker');
const { createDatabase } = require('./database');
const { createIndexer } = require('./indexer');
const { createOutbox } = require('./outbox');

function createDurableStore(settings) {
  const database = createDatabase(settings.database);
  const indexer = createIndexer(database);
  const broker = settings.broker && createBroker(settings.broker, { onMessage: indexer.take });
  const outbox = broker && createOutbox(database, broker);

  return {
    async list(deadline) {
      return (await database.list(deadline)).map((record) => record.listing);
    },
    async find(id, deadline) {
      return (await database.find(id, deadline))?.listing ?? null;
    },
    async create(fields, key, deadline) {
      const { listing, isPublished } = await database.create(fields, key, deadline);
      const isConfirmed = isPublished || !outbox || await outbox.publish({ id: listing.id, key }, deadline);
      return { listing, isConfirmed };
    },
    /** Always well: the backend is not what fails when the database does, and another backend would not help. */
    health() {
      return { ok: true, message: [database.describe(), broker?.state].filter(Boolean).join(', ') };
    },
    async close() {
      outbox?.close();
      indexer.close();
      await Promise.all([broker?.close(), database.close()]);
    },
  };
}

module.exports = { createDurableStore };
