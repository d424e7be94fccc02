// Runs what a test sends it with the editor's API, as a debugger would: one JSON message a line over
// the socket that DLM_TEST_SOCKET names. What the user does, the tests do by keys instead.
'use strict';

const net = require('node:net');
const readline = require('node:readline');
const vscode = require('vscode');

const AsyncFunction = (async () => {}).constructor;

async function run(code, values) {
  return new AsyncFunction('vscode', 'values', code)(vscode, values);
}

exports.activate = () => {
  const socket = net.connect(process.env.DLM_TEST_SOCKET);
  socket.on('error', () => {}); // The test has ended.
  const send = (message) => socket.write(`${JSON.stringify(message)}\n`);
  send({ hello: 'driver' });
  readline.createInterface({ input: socket }).on('line', (line) => {
    const { id, code, values } = JSON.parse(line);
    run(code, values).then(
      (result) => send({ id, result: result ?? null }),
      (error) => send({ id, error: String(error?.stack ?? error) }),
    );
  });
};
