import assert from 'node:assert/strict';
import { test } from 'node:test';

import { NotFoundError } from 'openai';

import { all, client, model } from './talk.mjs';

const message = (content) => ({ type: 'message', role: 'user', content });
const texts = (items) => items.map((item) => item.content[0].text);

test('a conversation is made, changed and deleted', async () => {
  const made = await client.conversations.create({ metadata: { topic: 'birds' } });
  assert.equal(made.object, 'conversation');
  const changed = await client.conversations.update(made.id, { metadata: { topic: 'bees' } });
  assert.deepEqual(changed.metadata, { topic: 'bees' });
  assert.deepEqual((await client.conversations.retrieve(made.id)).metadata, { topic: 'bees' });
  const gone = await client.conversations.delete(made.id);
  assert.deepEqual([gone.id, gone.deleted], [made.id, true]);
  await assert.rejects(client.conversations.retrieve(made.id), NotFoundError);
  await assert.rejects(all(client.conversations.items.list(made.id)), NotFoundError);
});

test('items are paged to their end in both orders', async () => {
  const lines = Array.from({ length: 25 }, (_, i) => `line ${i}`);
  const { id } = await client.conversations.create({ items: lines.slice(0, 15).map(message) });
  const added = await client.conversations.items.create(id, { items: lines.slice(15).map(message) });
  assert.equal(added.data.length, 10);
  assert.deepEqual(texts(await all(client.conversations.items.list(id, { limit: 10, order: 'asc' }))), lines);
  assert.deepEqual(texts(await all(client.conversations.items.list(id, { limit: 10 }))), [...lines].reverse());
  const pages = await all((await client.conversations.items.list(id, { limit: 10 })).iterPages());
  assert.deepEqual(pages.map((page) => page.data.length), [10, 10, 5]);
});

test('an item is read and deleted', async () => {
  const { id } = await client.conversations.create({ items: [message('one'), message('two')] });
  const [two, one] = await all(client.conversations.items.list(id));
  assert.deepEqual(texts([await client.conversations.items.retrieve(one.id, { conversation_id: id })]), ['one']);
  assert.equal((await client.conversations.items.delete(one.id, { conversation_id: id })).id, id);
  assert.deepEqual((await all(client.conversations.items.list(id))).map((item) => item.id), [two.id]);
});

test('turns read a conversation and are written to it', async () => {
  const { id } = await client.conversations.create();
  const first = await client.responses.create({ model, conversation: id, input: 'My name is Ada.' });
  assert.deepEqual(first.conversation, { id });
  const stream = client.responses.stream({ model, conversation: { id }, input: 'What is my name?' });
  assert.match((await stream.finalResponse()).output_text, /Ada/);
  const items = await all(client.conversations.items.list(id, { order: 'asc' }));
  assert.deepEqual(items.map((item) => item.role), ['user', 'assistant', 'user', 'assistant']);
});
