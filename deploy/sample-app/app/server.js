'use strict';
// The backend: a small real-estate listing service.
//   GET /health   GET /listings   GET /listings/ID   POST /listings
// Every answer says which VM gave it (header X-Served-By, field served_by). Configured by its environment (settings.js);
// without a database in it the listings are in memory.

const http = require('node:http');
const { readListing, readKey, isMadeOf } = require('./listing');
const { readSettings, WrongSetting } = require('./settings');
const { now } = require('./waiting');

const LARGEST_BODY = 64 * 1024;
// Longer than the proxy keeps an idle connection, so that the proxy is the one that closes it.
const KEEP_ALIVE_MS = 75_000;
// Longer than a request's deadline, shorter than the unit's TimeoutStopSec.
const LONGEST_SHUTDOWN_MS = 9_000;

const { vm, addresses, port, deadlineMs, ...servers } = settingsOrExit();
const started = Date.now();
const store = createStore();
let isStopping = false;

function settingsOrExit() {
  try {
    return readSettings(process.env);
  } catch (error) {
    if (!(error instanceof WrongSetting)) throw error;
    console.error(error.message);
    return process.exit(2);
  }
}

// Required only where they are needed: in memory the application needs no packages.
function createStore() {
  return servers.database ? require('./durable').createDurableStore(servers) : require('./store').createMemoryStore();
}

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function answer(response, status, fields, headers = {}) {
  const text = `${JSON.stringify({ ...fields, served_by: vm })}\n`;
  response.writeHead(status, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
    'X-Served-By': vm,
    ...(isStopping ? { Connection: 'close' } : {}),
    ...headers,
  });
  response.end(text);
}

async function readBody(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > LARGEST_BODY) throw new Refusal(413, `the body is larger than ${LARGEST_BODY} bytes`);
    parts.push(part);
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8'));
  } catch {
    throw new Refusal(400, 'the body is not JSON');
  }
}

function health(response) {
  const { ok, message } = store.health();
  const upS = Math.round((Date.now() - started) / 1000);
  answer(response, ok ? 200 : 503, {
    status: ok ? 'ok' : 'failing',
    message: `backend on ${vm}: ${message}, up ${upS} s`,
  });
}

// 201: committed and confirmed by the broker. 202: committed, and the broker has not confirmed in time; it will be
// published as soon as it can. Anything else: unknown or not done; the same key again cannot make a second one.
async function createListing(request, response, deadline) {
  const { key, problem: wrongKey } = readKey(request.headers['idempotency-key']);
  const { fields, problem } = readListing(await readBody(request));
  if (wrongKey || problem) throw new Refusal(422, wrongKey || problem);
  const { listing, isConfirmed } = await store.create(fields, key, deadline);
  if (!isMadeOf(listing, fields)) throw new Refusal(409, 'this Idempotency-Key belongs to another listing');
  answer(response, isConfirmed ? 201 : 202, { listing }, { Location: `listings/${listing.id}`, 'Idempotency-Key': key });
}

async function route(request, response) {
  const deadline = now() + deadlineMs;
  const { pathname } = new URL(request.url, 'http://backend');
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  const one = /^\/listings\/([0-9]{1,15})$/.exec(pathname);

  if (method === 'GET' && pathname === '/health') return health(response);
  if (method === 'GET' && pathname === '/listings') return answer(response, 200, { listings: await store.list(deadline) });
  if (method === 'GET' && one) {
    const listing = await store.find(Number(one[1]), deadline);
    if (!listing) throw new Refusal(404, `there is no listing ${one[1]}`);
    return answer(response, 200, { listing });
  }
  if (method === 'POST' && pathname === '/listings') return createListing(request, response, deadline);
  if (pathname === '/health' || pathname === '/listings' || one) {
    throw new Refusal(405, `${request.method} is not possible on ${pathname}`);
  }
  throw new Refusal(404, `there is nothing at ${pathname}`);
}

function serve(request, response) {
  route(request, response).catch((error) => {
    if (!error.status) console.error(`${request.method} ${request.url}: ${error.stack}`);
    if (response.headersSent) response.destroy();
    else {
      const message = error.status ? error.message : 'an error in the backend';
      answer(response, error.status || 500, { error: message }, error.status === 503 ? { 'Retry-After': '1' } : {});
    }
  });
}

function listen(address) {
  const server = http.createServer(serve);
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.headersTimeout = KEEP_ALIVE_MS + 1000;
  server.on('error', (error) => {
    console.error(`cannot listen on ${address}:${port}: ${error.message}`);
    process.exit(1);
  });
  server.listen(port, address, () => console.log(`backend on ${vm} listens on ${address}:${port}`));
  return server;
}

const listeners = addresses.map(listen);

// Stop taking connections, close the idle ones, finish the open requests, and be gone.
function stop(signal) {
  if (isStopping) return;
  isStopping = true;
  console.log(`${signal}: finishing what is open`);
  setTimeout(() => process.exit(1), LONGEST_SHUTDOWN_MS).unref();
  const closed = listeners.map((server) => new Promise((resolve) => {
    server.close(resolve);
    server.closeIdleConnections();
  }));
  Promise.all(closed).then(() => store.close()).then(() => process.exit(0));
}

process.on('SIGTERM', () => stop('SIGTERM'));
process.on('SIGINT', () => stop('SIGINT'));
