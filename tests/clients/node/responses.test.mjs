import assert from 'node:assert/strict';
import { test } from 'node:test';

import { NotFoundError } from 'openai';

import { all, client, model, said, types } from './talk.mjs';

test('a response is made, read and deleted', async () => {
  const made = await client.responses.create({ model, input: 'Hello', metadata: { topic: 'birds' } });
  assert.equal(made.output_text, 'You said: Hello');
  assert.deepEqual([made.object, made.status, made.model], ['response', 'completed', model]);
  assert.deepEqual(made.metadata, { topic: 'birds' });
  assert.equal(made.usage.total_tokens, made.usage.input_tokens + made.usage.output_tokens);
  assert.deepEqual(await client.responses.retrieve(made.id), made);
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), NotFoundError);
});

test('answers carry the id of their request', async () => {
  const made = await client.responses.create({ model, input: 'Hello' });
  assert.match(made._request_id, /^req_/);
  const { data, response, request_id } = await client.models.list().withResponse();
  assert.ok(data.data.length);
  assert.equal(request_id, response.headers.get('x-request-id'));
  assert.notEqual(request_id, made._request_id);
});

test('a stream is numbered events from created to completed', async () => {
  const events = await all(await client.responses.create({ model, input: 'Say exactly: one two three', stream: true }));
  assert.deepEqual([...new Set(types(events))], [
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.completed',
  ]);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.equal(said(events), 'one two three');
  const { response } = events.at(-1);
  assert.deepEqual((await client.responses.retrieve(response.id)).output, response.output);
});

test('the stream helper accumulates what GET answers', async () => {
  const deltas = [];
  const kinds = new Set();
  const stream = client.responses
    .stream({ model, input: '[[think]] Say exactly: a b c', reasoning: { effort: 'low', summary: 'auto' } })
    .on('response.output_text.delta', (event) => deltas.push(event))
    .on('event', (event) => kinds.add(event.type));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, 'a b c');
  assert.equal(deltas.at(-1).snapshot, 'a b c');
  assert.ok(kinds.has('response.completed'));
  const stored = await client.responses.retrieve(final.id);
  assert.equal(stored.output_text, final.output_text);
  assert.deepEqual(stored.usage, final.usage);
  assert.deepEqual(types(stored.output), types(final.output));
});

test('the stream helper can be iterated, and reads its end afterwards', async () => {
  const stream = client.responses.stream({ model, input: '[[tokens:20]]' });
  const events = await all(stream);
  assert.equal(events.at(-1).type, 'response.completed');
  assert.equal(said(events), (await stream.finalResponse()).output_text);
});

test('a refusal is a part of its own', async () => {
  const stream = client.responses.stream({ model, input: '[[refuse]]' });
  const events = await all(stream);
  const [part] = (await stream.finalResponse()).output[0].content;
  assert.equal(part.type, 'refusal');
  const deltas = events.filter((event) => event.type === 'response.refusal.delta');
  assert.equal(deltas.map((event) => event.delta).join(''), part.refusal);
});

test('max_output_tokens ends a response as incomplete', async () => {
  const stream = client.responses.stream({ model, input: '[[tokens:50]]', max_output_tokens: 16 });
  const events = await all(stream);
  assert.equal(events.at(-1).type, 'response.incomplete');
  const final = await stream.finalResponse();
  assert.deepEqual([final.status, final.incomplete_details], ['incomplete', { reason: 'max_output_tokens' }]);
});

test('previous_response_id carries a chain on', async () => {
  const first = await client.responses.create({ model, input: 'My name is Ada.', instructions: 'Be brief.' });
  const second = await client.responses.create({ model, input: 'My dog is Rex.', previous_response_id: first.id });
  const third = await client.responses.create({ model, input: 'What is my name?', previous_response_id: second.id });
  assert.match(third.output_text, /Ada/);
  assert.equal(third.previous_response_id, second.id);
  assert.equal(third.instructions, null);
  const branch = await client.responses.create({ model, input: 'What is my dog?', previous_response_id: first.id });
  assert.doesNotMatch(branch.output_text, /Rex/);
});

test('output is input of the next turn, without a server that remembers', async () => {
  const history = [{ role: 'user', content: 'My name is Ada.' }];
  const first = await client.responses.create({ model, input: history, store: false });
  history.push(...first.output, { role: 'user', content: [{ type: 'input_text', text: 'What is my name?' }] });
  const second = await client.responses.create({ model, input: history, store: false });
  assert.match(second.output_text, /Ada/);
  await assert.rejects(client.responses.retrieve(second.id), NotFoundError);
});

test('input items are paged to their end in both orders', async () => {
  const input = Array.from({ length: 25 }, (_, i) => ({ role: 'user', content: `line ${i}` }));
  const { id } = await client.responses.create({ model, input });
  for (const order of ['asc', 'desc']) {
    const items = await all(client.responses.inputItems.list(id, { limit: 10, order }));
    const texts = items.map((item) => item.content[0].text);
    const expected = input.map((item) => item.content);
    assert.deepEqual(texts, order === 'asc' ? expected : expected.reverse());
  }
  const page = await client.responses.inputItems.list(id, { limit: 10 });
  assert.ok(page.hasNextPage());
  assert.equal((await page.getNextPage()).data[0].content[0].text, 'line 14');
});

test('input tokens are counted, with what comes before them', async () => {
  const body = { model, input: 'How many words are these?' };
  const counted = await client.responses.inputTokens.count(body);
  assert.equal(counted.object, 'response.input_tokens');
  const count = async (more) => (await client.responses.inputTokens.count({ ...body, ...more })).input_tokens;
  assert.ok(counted.input_tokens > 0);
  assert.ok((await count({ instructions: 'Count them all.' })) > counted.input_tokens);
  const { id } = await client.responses.create({ model, input: 'Hello' });
  assert.ok((await count({ previous_response_id: id })) > counted.input_tokens);
});
