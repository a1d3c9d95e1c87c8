import assert from 'node:assert/strict';
import { test } from 'node:test';

import { APIUserAbortError } from 'openai';

import { all, client, model, polled, said, types, until } from './talk.mjs';

const slow = '[[tokens:60]] [[pace:0.01]]';
const endless = '[[tokens:5000]] [[pace:0.02]]';

test('a background response is polled to its end', async () => {
  const begun = await client.responses.create({ model, input: slow, background: true });
  assert.ok(['queued', 'in_progress'].includes(begun.status));
  assert.equal(begun.background, true);
  const done = await polled(begun.id);
  assert.equal(done.status, 'completed');
  assert.match(done.output_text, /^word0 .*word59/);
});

test('a background response is cancelled, and cancelling twice is the same', async () => {
  const begun = await client.responses.create({ model, input: endless, background: true });
  assert.equal((await client.responses.cancel(begun.id)).status, 'cancelled');
  assert.equal((await client.responses.cancel(begun.id)).status, 'cancelled');
  assert.equal((await client.responses.retrieve(begun.id)).status, 'cancelled');
});

test('a stream that was cut is resumed event by event', async () => {
  const cut = [];
  for await (const event of await client.responses.create({ model, input: slow, background: true, stream: true })) {
    cut.push(event);
    if (cut.length === 20) break;
  }
  const { id } = cut[0].response;
  const last = cut.at(-1).sequence_number;
  const rest = await all(await client.responses.retrieve(id, { stream: true, starting_after: last }));
  const replay = await all(await client.responses.retrieve(id, { stream: true }));
  assert.deepEqual([...cut, ...rest], replay);
  assert.deepEqual(replay.map((event) => event.sequence_number), [...replay.keys()]);
  assert.equal(replay.at(-1).type, 'response.completed');
  assert.equal(said(replay), (await client.responses.retrieve(id)).output_text);
  for (const index of [0, 5, last, replay.length - 2, replay.length - 1]) {
    const tail = await all(await client.responses.retrieve(id, { stream: true, starting_after: index }));
    assert.deepEqual(tail, replay.slice(index + 1));
  }
});

test('the stream helper reads a response that runs already', async () => {
  const { id } = await client.responses.create({ model, input: slow, background: true });
  const stream = client.responses.stream({ response_id: id, starting_after: 5 });
  const events = await all(stream);
  assert.equal(events[0].sequence_number, 6);
  assert.equal((await stream.finalResponse()).output_text, (await client.responses.retrieve(id)).output_text);
});

/** What GET says of a foreground response whose client has gone. */
async function left(id) {
  const response = await until(async () => {
    const found = await client.responses.retrieve(id);
    return found.status === 'in_progress' ? null : found;
  });
  assert.equal(response.status, 'incomplete');
  assert.match(response.output_text, /^word0 /);
  const replay = await all(await client.responses.retrieve(id, { stream: true }));
  assert.equal(types(replay).at(-1), 'response.incomplete');
  assert.equal(said(replay), response.output_text);
}

test('an aborted stream leaves an incomplete response', async () => {
  const abort = new AbortController();
  const stream = await client.responses.create({ model, input: endless, stream: true }, { signal: abort.signal });
  let id;
  for await (const event of stream) {
    id ??= event.response.id;
    if (event.type === 'response.output_text.delta') abort.abort();
  }
  await left(id);
});

test('an aborted helper leaves an incomplete response', async () => {
  let id;
  const stream = client.responses.stream({ model, input: endless });
  stream.on('response.created', (event) => (id = event.response.id));
  stream.on('response.output_text.delta', () => stream.abort());
  await assert.rejects(stream.finalResponse(), APIUserAbortError);
  await left(id);
});

test('leaving a stream of the background does not stop its run', async () => {
  const stream = await client.responses.create({ model, input: slow, background: true, stream: true });
  let id;
  for await (const event of stream) {
    id = event.response.id;
    break;
  }
  assert.equal((await polled(id)).status, 'completed');
});
