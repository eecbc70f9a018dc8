'use strict';
// The link to RabbitMQ: one connection that is made again whenever it ends, a channel with publisher confirms and a
// channel that consumes. Knows nothing of listings or of the database.

const amqp = require('amqplib');
const { pause, within, Reachability } = require('./waiting');

const QUEUE = 'listings';
// A broker counts a delivery again whenever its consumer's connection ends; from 4.0 on it drops a message after 20.
const QUEUE_OPTIONS = { durable: true, arguments: { 'x-queue-type': 'quorum', 'x-delivery-limit': 1000 } };
const CONNECT_MS = 2000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 500;
// A connection without a sign of life is given up after two of these.
const HEARTBEAT_S = 2;
const PREFETCH = 100;
// A channel that was opened while the queue's leader was being lost may never confirm anything (seen on 3.10 when the
// leader's machine lost power): what is not confirmed by then is published again, on a new connection.
const CONFIRM_MS = 2500;

class BrokerAway extends Error {}

/** `onMessage({ content, ack, isOpen })` gets each delivery. */
function createBroker(settings, { onMessage }) {
  const state = new Reachability('broker');
  let current = null;
  let isClosed = false;

  async function open() {
    const { host: hostname, port, user: username, password: read, vhost, ca, name } = settings;
    const connection = await amqp.connect(
      { protocol: 'amqps', hostname, port, username, password: read(), vhost: encodeURIComponent(vhost), heartbeat: HEARTBEAT_S },
      { ca, timeout: CONNECT_MS, noDelay: true, clientProperties: { connection_name: name } },
    );
    const link = { connection, channel: null, isOpen: true, pending: new Set(), returned: new Set(), ended: null };
    link.ended = new Promise((resolve) => { link.end = resolve; });
    // An error is followed by `close`, on a connection and on a channel; both channels stand and fall with it.
    connection.on('error', (error) => { link.problem = error.message; });
    connection.on('close', () => link.end(link.problem || 'it closed the connection'));
    connection.on('blocked', (reason) => state.fails(`it accepts no messages: ${reason}`));
    connection.on('unblocked', () => state.works());
    try {
      await within(CONNECT_MS, setUp(link), 'opening the channels');
    } catch (error) {
      link.isOpen = false;
      destroy(connection);
      throw error;
    }
    return link;
  }

  async function setUp(link) {
    const open = async (channel) => {
      channel.on('error', (error) => { link.problem = error.message; });
      channel.on('close', () => link.end(link.problem || 'it closed a channel'));
      return channel;
    };
    link.channel = await open(await link.connection.createConfirmChannel());
    // Comes before the confirm of the same message: there is no queue that took it.
    link.channel.on('return', ({ properties }) => link.returned.add(properties.messageId));
    await link.channel.assertQueue(QUEUE, QUEUE_OPTIONS);
    const consuming = await open(await link.connection.createChannel());
    await consuming.prefetch(PREFETCH);
    await consuming.consume(QUEUE, (message) => {
      if (message === null) return link.end('it cancelled the consumer');
      return onMessage({
        content: message.content,
        isOpen: () => link.isOpen,
        ack: () => link.isOpen && consuming.ack(message),
      });
    });
  }

  /** End a connection at once. amqplib's own close waits for an answer, which may never come. */
  function destroy(connection) {
    connection.close().catch(() => {});
    setTimeout(() => connection.connection.stream.destroy(), 200).unref();
  }

  async function keepConnected() {
    let wait = FIRST_PAUSE_MS;
    while (!isClosed) {
      try {
        const link = await open();
        wait = FIRST_PAUSE_MS;
        current = link;
        state.works();
        state.fails(await link.ended);
        current = null;
        link.isOpen = false;
        destroy(link.connection);
        for (const reject of link.pending) reject(new BrokerAway('the connection ended before the broker had confirmed'));
      } catch (error) {
        state.fails(error.message || error.code || String(error));
      }
      await pause(wait);
      wait = Math.min(2 * wait, LONGEST_PAUSE_MS);
    }
  }
  keepConnected();

  return {
    state,
    isConnected: () => current !== null,
    /** Resolve when the broker has confirmed the message: a majority of the queue's members has it on disk. */
    publish(messageId, content) {
      return new Promise((resolve, reject) => {
        const link = current;
        if (!link) throw new BrokerAway(String(state));
        link.pending.add(reject);
        const late = setTimeout(() => link.end(`it has not confirmed a message within ${CONFIRM_MS} ms`), CONFIRM_MS);
        const options = { persistent: true, mandatory: true, messageId, contentType: 'application/json' };
        link.channel.sendToQueue(QUEUE, content, options, (refusal) => {
          link.pending.delete(reject);
          clearTimeout(late);
          if (refusal) reject(new BrokerAway(`the broker refused the message: ${refusal.message}`));
          else if (link.returned.delete(messageId)) {
            reject(new BrokerAway('there is no queue for the message'));
            link.end('its queue is gone'); // the next connection declares it
          } else resolve();
        });
      });
    },
    async close() {
      isClosed = true;
      if (current) await within(500, current.connection.close(), 'closing').catch(() => {});
    },
  };
}

module.exports = { createBroker };
