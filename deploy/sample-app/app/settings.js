'use strict';
// The application's environment, read once: what is missing or contradicts itself ends the program with one sentence.

const fs = require('node:fs');
const os = require('node:os');

class WrongSetting extends Error {}

function number(env, name, otherwise) {
  const value = Number(env[name] || otherwise);
  if (!Number.isInteger(value) || value <= 0) throw new WrongSetting(`${name} must be a number above 0, not ${env[name]}`);
  return value;
}

/**
 * Passwords come from files and never from the environment, which any process of the same user can read. Returns what reads
 * the file, for each new connection: the password may have been changed meanwhile.
 */
function password(env, name) {
  const file = env[name];
  if (!file) throw new WrongSetting(`${name} is missing: the file that holds the password`);
  const read = () => fs.readFileSync(file, 'utf8').trim();
  try {
    read();
  } catch (error) {
    throw new WrongSetting(`${name}: ${error.message}`);
  }
  return read;
}

/** The authority whose certificates database and broker must show: without it nothing is connected to. */
function authority(env) {
  const file = env.APP_CA_FILE;
  if (!file) throw new WrongSetting('APP_CA_FILE is missing: the file with the certificate of the fleet\'s authority');
  try {
    return fs.readFileSync(file, 'utf8');
  } catch (error) {
    throw new WrongSetting(`APP_CA_FILE: ${error.message}`);
  }
}

/** Return { vm, addresses, port, deadlineMs, database, broker }; the last two are null where they are not configured. */
function readSettings(env) {
  const vm = env.APP_VM || os.hostname();
  const settings = {
    vm,
    addresses: (env.APP_ADDRESSES || '127.0.0.1').split(',').filter(Boolean),
    port: number(env, 'APP_PORT', 3000),
    deadlineMs: number(env, 'APP_DEADLINE_MS', 8000),
    database: null,
    broker: null,
  };
  if (env.APP_DATABASE_HOST) {
    settings.database = {
      host: env.APP_DATABASE_HOST,
      port: number(env, 'APP_DATABASE_PORT', 3306),
      name: env.APP_DATABASE_NAME || 'listings',
      user: env.APP_DATABASE_USER || 'orch_app',
      password: password(env, 'APP_DATABASE_PASSWORD_FILE'),
      ca: authority(env),
    };
  }
  if (env.APP_AMQP_HOST) {
    if (!settings.database) throw new WrongSetting('APP_AMQP_HOST needs APP_DATABASE_HOST: what is published must be stored');
    settings.broker = {
      host: env.APP_AMQP_HOST,
      port: number(env, 'APP_AMQP_PORT', 5671),
      vhost: env.APP_AMQP_VHOST || 'app',
      user: env.APP_AMQP_USER || 'orch_app',
      password: password(env, 'APP_AMQP_PASSWORD_FILE'),
      ca: settings.database.ca,
      name: `listings on ${vm}`,
    };
  }
  return settings;
}

module.exports = { readSettings, WrongSetting };
