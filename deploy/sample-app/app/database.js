'use strict';
// The listings' table, and the only module with SQL in it. Every call is tried again, each time on a connection that
// works, until its deadline: a planned switch of the database costs a pause and no failed request. What is tried again
// is idempotent: a listing has its key before the first try.

const mysql = require('mysql2/promise');
const { now, pause, within, Reachability } = require('./waiting');
const { SEED } = require('./listing');

// One try. Longer than a commit waits while the database decides to go on without its standby; short enough that a
// server that hangs leaves time for a second try.
const TRY_MS = 2000;
const CONNECT_MS = 1000;
const FIRST_PAUSE_MS = 25;
const LONGEST_PAUSE_MS = 200;
const CONNECTIONS = 10;
const WATCH_MS = 1000;
const LATEST = 100;
// A server that takes no writes may lack what was written elsewhere a moment ago: what is read is read where it was
// written. Where nobody has taken writes for so long, an answer that may be old is better than none.
const OLD_IS_BETTER_MS = 1500;

const DUPLICATE = 1062;
const READ_ONLY = new Set([1290, 1792, 1836]);
const DENIED = 1045;
const ABSENT = new Set([1049, 1146]); // no such database, no such table

class DatabaseAway extends Error {
  status = 503;
}

class NotTheActive extends Error {
  errno = 1290;
}

/** A statement that no other try can help: its values are refused. Everything else may be over in a moment. */
const isFinal = (error) => /^2[23]/.test(error.sqlState || '');

const COLUMNS = 'id, request_key, title, city, price, rooms, area, created_at, published_at, indexed_at';

function tableOf(name) {
  const table = `${mysql.escapeId(name)}.listings`;
  return {
    table,
    schema: [
      `CREATE DATABASE IF NOT EXISTS ${mysql.escapeId(name)} CHARACTER SET utf8mb4`,
      // published_at: the broker has confirmed the message (until then the row is the outbox's).
      `CREATE TABLE IF NOT EXISTS ${table} (
         id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
         request_key VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
         title VARCHAR(120) NOT NULL,
         city VARCHAR(80) NOT NULL,
         price DOUBLE NOT NULL,
         rooms DOUBLE NULL,
         area DOUBLE NULL,
         created_at DATETIME(3) NOT NULL,
         published_at DATETIME(3) NULL,
         indexed_at DATETIME(3) NULL,
         UNIQUE KEY request_key (request_key),
         KEY outbox (published_at, id)
       ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4`,
    ],
    insert: `INSERT INTO ${table} (request_key, title, city, price, rooms, area, created_at) VALUES (?)`,
    seed: `INSERT IGNORE INTO ${table} (request_key, title, city, price, rooms, area, created_at) VALUES ?`,
    readOnly: 'SELECT @@global.read_only AS is_read_only',
    isThere: `SELECT 1 FROM ${table} LIMIT 0`,
    byId: `SELECT ${COLUMNS} FROM ${table} WHERE id = ?`,
    byKey: `SELECT ${COLUMNS} FROM ${table} WHERE request_key = ?`,
    latest: `SELECT ${COLUMNS} FROM ${table} ORDER BY id DESC LIMIT ${LATEST}`,
    outbox: `SELECT id, request_key FROM ${table} WHERE published_at IS NULL ORDER BY id LIMIT ?`,
    published: `UPDATE ${table} SET published_at = UTC_TIMESTAMP(3) WHERE published_at IS NULL AND id IN (?)`,
    // What is consumed was published. The key: after a loss of data an id can come a second time.
    indexed: `UPDATE ${table} SET indexed_at = UTC_TIMESTAMP(3), published_at = COALESCE(published_at, UTC_TIMESTAMP(3))
              WHERE indexed_at IS NULL AND (id, request_key) IN (?)`,
  };
}

const valuesOf = (key, fields, created) =>
  [key, fields.title, fields.city, fields.price, fields.rooms ?? null, fields.area ?? null, created];

/** What a row says: { key, isPublished, listing }, the listing as clients see it. */
function recordOf(row) {
  const listing = { id: row.id, title: row.title, city: row.city, price: row.price };
  if (row.rooms !== null) listing.rooms = row.rooms;
  if (row.area !== null) listing.area = row.area;
  listing.created = row.created_at.toISOString();
  listing.indexed = row.indexed_at !== null;
  return { key: row.request_key, isPublished: row.published_at !== null, listing };
}

function createDatabase({ host, port, name, user, password, ca }) {
  const sql = tableOf(name);
  const state = new Reachability('database');
  const pool = mysql.createPool({
    host, port, user, ssl: { ca, verifyIdentity: true, minVersion: 'TLSv1.2' }, connectTimeout: CONNECT_MS, connectionLimit: CONNECTIONS, timezone: 'Z', charset: 'utf8mb4',
  });
  // While it is being changed, the file may be ahead of the server: what was good last is tried in turn with it.
  let good = password();
  let usesGood = false;
  const active = new WeakSet(); // connections to the server that takes the writes
  let isPrepared = false;
  let preparing = null;
  let isReadOnly = false;
  let isClosed = false;

  /** Create what is absent. Looks first: on a server that is not writable yet even IF NOT EXISTS is refused. */
  async function prepare(connection) {
    try {
      await connection.query(sql.isThere);
    } catch (error) {
      if (!ABSENT.has(error.errno)) throw error;
      for (const statement of sql.schema) await connection.query(statement);
      const created = new Date();
      await connection.query(sql.seed, [SEED.map((fields, number) => valuesOf(`seed-${number + 1}`, fields, created))]);
    }
    isPrepared = true;
  }

  /** Make sure that a new connection leads to the server that takes the writes; an old one would have been ended. */
  async function check(got, readsOld) {
    if (active.has(got.connection)) return true;
    const [[row]] = await got.query(sql.readOnly);
    const isActive = Number(row.is_read_only) === 0;
    if (isActive) active.add(got.connection);
    else if (!readsOld) throw new NotTheActive('the server that answers takes no writes');
    return isActive;
  }

  /** One try on one connection, which is kept only when all went well: the next one may lead to another server. */
  async function once(work, ms, readsOld) {
    let isOver = false;
    let isActive = true;
    const shown = usesGood ? good : password();
    pool.pool.config.connectionConfig.password = shown;
    const getting = pool.getConnection();
    getting.then((late) => isOver && late.release(), () => {});
    let connection;
    const trying = getting.then(async (got) => {
      if (!active.has(got.connection)) good = shown; // a new one
      if (isOver) return undefined;
      connection = got;
      isActive = await check(got, readsOld);
      // One at a time: the first listing that is asked for comes after those that a new table begins with.
      if (!isPrepared) await (preparing ??= within(TRY_MS, prepare(got), 'the schema').finally(() => { preparing = null; }));
      return work((statement, values) => got.query(statement, values).then(([rows]) => rows));
    });
    try {
      const result = await within(ms, trying, 'the database');
      if (isActive) connection.release();
      else connection.destroy();
      return result;
    } catch (error) {
      if (isFinal(error)) connection.release();
      else connection?.destroy();
      throw error;
    } finally {
      isOver = true;
    }
  }

  /** Try until it works. Rejects with DatabaseAway at the deadline, with the database's error when it is final. */
  async function run(work, deadline, oldFrom = Infinity) {
    let wait = FIRST_PAUSE_MS;
    let problem = '';
    for (;;) {
      const left = deadline - now();
      if (left <= 0 || isClosed) throw new DatabaseAway(`the database cannot be used just now (${problem || 'no time left'})`);
      try {
        const result = await once(work, Math.min(TRY_MS, left), now() >= oldFrom);
        state.works();
        return result;
      } catch (error) {
        if (isFinal(error)) throw error;
        if (ABSENT.has(error.errno)) isPrepared = false;
        if (error.errno === DENIED) usesGood = !usesGood;
        problem = error.message || error.code || String(error);
        if (READ_ONLY.has(error.errno)) isReadOnly = true;
        else state.fails(problem);
      }
      await pause(Math.min(wait, deadline - now()));
      wait = Math.min(2 * wait, LONGEST_PAUSE_MS);
    }
  }

  const read = (work, deadline) => run(work, deadline, now() + OLD_IS_BETTER_MS);

  async function create(query, fields, key, created) {
    try {
      const { insertId } = await query(sql.insert, [valuesOf(key, fields, created)]);
      const listing = { id: insertId, ...fields, created: created.toISOString(), indexed: false };
      return { key, isPublished: false, listing };
    } catch (error) {
      if (error.errno !== DUPLICATE) throw error;
      // An earlier try was carried out after all, or the client's earlier request was.
      const [row] = await query(sql.byKey, [key]);
      return recordOf(row);
    }
  }

  /** So that /health knows how it is when nobody asks for anything. */
  async function watch() {
    const look = async (query) => { isReadOnly = Number((await query(sql.readOnly))[0].is_read_only) !== 0; };
    for (; !isClosed; await pause(WATCH_MS)) await run(look, now() + WATCH_MS, now()).catch(() => {});
  }
  watch();

  return {
    describe: () => `${state}${state.ok && isReadOnly ? ' and read-only' : ''}`,
    list: (deadline) => read(async (query) => (await query(sql.latest)).map(recordOf), deadline),
    find: (id, deadline) => read(async (query) => (await query(sql.byId, [id])).map(recordOf)[0] ?? null, deadline),
    /** Return the record with this key, which is a new one unless the key was there before. */
    create: (fields, key, deadline) => {
      const created = new Date();
      return run((query) => create(query, fields, key, created), deadline);
    },
    /** Return up to `most` of what was committed and not confirmed by the broker: [{ id, key }]. */
    unpublished: (most, deadline) => run(
      async (query) => (await query(sql.outbox, [most])).map((row) => ({ id: row.id, key: row.request_key })), deadline,
    ),
    markPublished: (ids, deadline) => run((query) => query(sql.published, [ids]), deadline),
    markIndexed: (found, deadline) => run((query) => query(sql.indexed, [found.map(({ id, key }) => [id, key])]), deadline),
    async close() {
      isClosed = true;
      await within(500, pool.end(), 'closing').catch(() => {});
    },
  };
}

module.exports = { createDatabase };
