'use strict';
// The backend: a small real-estate listing service.
//   GET /health   GET /listings   GET /listings/ID   POST /listings
// Every answer says which VM gave it (header X-Served-By, field served_by). Configured by its environment:
// APP_VM, APP_ADDRESSES (comma-separated), APP_PORT.

const http = require('node:http');
const { createMemoryStore } = require('./store');
const { readListing } = require('./listing');

const LARGEST_BODY = 64 * 1024;
// Longer than the proxy keeps an idle connection, so that the proxy is the one that closes it.
const KEEP_ALIVE_MS = 75_000;
const LONGEST_SHUTDOWN_MS = 8_000;

const vm = process.env.APP_VM || require('node:os').hostname();
const addresses = (process.env.APP_ADDRESSES || '127.0.0.1').split(',').filter(Boolean);
const port = Number(process.env.APP_PORT || 3000);
const started = Date.now();
const store = createMemoryStore();
let isStopping = false;

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function answer(response, status, fields) {
  const text = `${JSON.stringify({ ...fields, served_by: vm })}\n`;
  response.writeHead(status, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
    'X-Served-By': vm,
    ...(isStopping ? { Connection: 'close' } : {}),
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

async function health(response) {
  const { ok, message } = await store.health();
  const upS = Math.round((Date.now() - started) / 1000);
  answer(response, ok ? 200 : 503, {
    status: ok ? 'ok' : 'failing',
    message: `backend on ${vm}: ${message}, up ${upS} s`,
  });
}

async function route(request, response) {
  const { pathname } = new URL(request.url, 'http://backend');
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  const one = /^\/listings\/([0-9]{1,15})$/.exec(pathname);

  if (method === 'GET' && pathname === '/health') return health(response);
  if (method === 'GET' && pathname === '/listings') return answer(response, 200, { listings: await store.list() });
  if (method === 'GET' && one) {
    const listing = await store.find(Number(one[1]));
    if (!listing) throw new Refusal(404, `there is no listing ${one[1]}`);
    return answer(response, 200, { listing });
  }
  if (method === 'POST' && pathname === '/listings') {
    const { fields, problem } = readListing(await readBody(request));
    if (problem) throw new Refusal(422, problem);
    return answer(response, 201, { listing: await store.create(fields) });
  }
  if (pathname === '/health' || pathname === '/listings' || one) {
    throw new Refusal(405, `${request.method} is not possible on ${pathname}`);
  }
  throw new Refusal(404, `there is nothing at ${pathname}`);
}

function serve(request, response) {
  route(request, response).catch((error) => {
    if (!(error instanceof Refusal)) console.error(`${request.method} ${request.url}: ${error.stack}`);
    if (response.headersSent) response.destroy();
    else answer(response, error.status || 500, { error: error.status ? error.message : 'an error in the backend' });
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

const servers = addresses.map(listen);

// Stop taking connections, close the idle ones, finish the open requests, and be gone.
function stop(signal) {
  if (isStopping) return;
  isStopping = true;
  console.log(`${signal}: finishing what is open`);
  setTimeout(() => process.exit(1), LONGEST_SHUTDOWN_MS).unref();
  const closed = servers.map((server) => new Promise((resolve) => {
    server.close(resolve);
    server.closeIdleConnections();
  }));
  Promise.all(closed).then(() => store.close()).then(() => process.exit(0));
}

process.on('SIGTERM', () => stop('SIGTERM'));
process.on('SIGINT', () => stop('SIGINT'));
