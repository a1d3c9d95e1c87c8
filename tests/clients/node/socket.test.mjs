import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ResponsesWS } from 'openai/resources/responses/ws';

import { client, model, said, types } from './talk.mjs';

/** A connection that is closed when the test ends, and `turn`, which sends an event and collects its answer. */
function connected(context) {
  const socket = new ResponsesWS(client);
  context.after(() => socket.close());
  const stream = socket.stream();
  const turn = async (body) => {
    const events = [];
    socket.send({ type: 'response.create', model, ...body });
    for (;;) {
      const { value, done } = await stream.next();
      assert.ok(!done && value.type !== 'close', `closed: ${JSON.stringify(value)}`);
      if (value.type === 'error') return { error: value.error };
      if (value.type !== 'message') continue;
      events.push(value.message);
      if (/^response\.(completed|incomplete|failed)$/.test(value.message.type)) return { events };
    }
  };
  return { socket, turn };
}

test('two turns on one connection', { timeout: 60_000 }, async (context) => {
  const { turn } = connected(context);
  const { events: first } = await turn({ input: 'My name is Ada.' });
  assert.equal(types(first)[0], 'response.created');
  assert.deepEqual(first.map((event) => event.sequence_number), [...first.keys()]);
  const { response } = first.at(-1);
  assert.deepEqual((await client.responses.retrieve(response.id)).output, response.output);
  const { events: second } = await turn({ input: 'What is my name?', previous_response_id: response.id });
  assert.match(said(second), /Ada/);
  assert.equal(second[0].sequence_number, 0);
});

test('what is not stored is gone on from on its own connection', { timeout: 60_000 }, async (context) => {
  const { turn } = connected(context);
  const { events: first } = await turn({ input: 'My name is Ada.', store: false });
  const previous_response_id = first.at(-1).response.id;
  const { events: second } = await turn({ input: 'What is my name?', store: false, previous_response_id });
  assert.match(said(second), /Ada/);
});

test('an error is an event, and the connection goes on', { timeout: 60_000 }, async (context) => {
  const { turn } = connected(context);
  const { error: frame } = await turn({ input: 'x', previous_response_id: 'resp_none' });
  assert.deepEqual([frame.error.type, frame.error.status], ['error', 400]);
  assert.equal(frame.error.error.code, 'previous_response_not_found');
  assert.ok(frame.message.includes(frame.error.error.message));
  const { error: other } = await turn({ input: 'x', model: 'no-such-model' });
  assert.deepEqual([other.error.status, other.error.error.code], [404, 'model_not_found']);
  const { events } = await turn({ input: 'Say exactly: still here' });
  assert.equal(said(events), 'still here');
});

test('events are told to listeners, until the socket closes', { timeout: 60_000 }, async () => {
  const socket = new ResponsesWS(client);
  const deltas = [];
  socket.on('response.output_text.delta', (event) => deltas.push(event.delta));
  socket.on('response.completed', () => socket.close());
  const closed = new Promise((resolve, reject) => {
    socket.on('close', resolve);
    socket.on('error', reject);
  });
  socket.send({ type: 'response.create', model, input: 'Say exactly: a b c' }); // waits in the queue for the handshake
  assert.equal(await closed, 1000);
  assert.equal(deltas.join(''), 'a b c');
});
