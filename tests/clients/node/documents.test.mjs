import assert from 'node:assert/strict';
import { test } from 'node:test';

import { NotFoundError, toFile } from 'openai';

import { all, client, model, types } from './talk.mjs';

const panthers = 'The Panthers defense gave up just 308 points, ranking sixth in the league.';
const bakery = 'The bakery sells rye bread on Saturdays.\r\nOn Mondays it is closed.';
const question = 'What do the documents say: how many points did the Panthers defense give up?';
const quickly = { pollIntervalMs: 50 };

/** A store with both texts, and the file of the first. */
async function filled() {
  const store = await client.vectorStores.create({ name: 'Two' });
  const text = await toFile(Buffer.from(panthers), 'panthers.txt');
  const file = await client.vectorStores.files.uploadAndPoll(store.id, text, quickly);
  assert.deepEqual([file.status, file.last_error], ['completed', null]);
  const files = [await toFile(Buffer.from(bakery), 'bakery.txt')];
  const batch = await client.vectorStores.fileBatches.uploadAndPoll(store.id, { files }, quickly);
  assert.deepEqual([batch.status, batch.file_counts.completed], ['completed', 1]);
  return { store: store.id, file: file.id };
}

test('a file comes back as it was', async () => {
  const data = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 256));
  const made = await client.files.create({ file: await toFile(data, 'x yé.bin'), purpose: 'user_data' });
  assert.deepEqual([made.bytes, made.filename, made.purpose], [data.length, 'x yé.bin', 'user_data']);
  const content = await client.files.content(made.id);
  assert.deepEqual(Buffer.from(await content.arrayBuffer()), data);
  assert.equal((await client.files.waitForProcessing(made.id, { pollInterval: 50 })).status, 'processed');
  assert.ok((await all(client.files.list({ limit: 2 }))).some((file) => file.id === made.id));
  assert.equal((await client.files.delete(made.id)).deleted, true);
  await assert.rejects(client.files.retrieve(made.id), NotFoundError);
});

test('a store is filled, listed, searched and deleted', async () => {
  const { store, file } = await filled();
  const { file_counts: counts } = await client.vectorStores.retrieve(store);
  assert.deepEqual([counts.completed, counts.total], [2, 2]);
  const listed = await all(client.vectorStores.files.list(store, { limit: 1 }));
  assert.equal(new Set(listed.map((one) => one.id)).size, 2);
  const hits = await all(client.vectorStores.search(store, { query: 'How many points did the defense give up?' }));
  assert.deepEqual([hits[0].file_id, hits[0].filename, hits[0].content[0].text], [file, 'panthers.txt', panthers]);
  const [part] = await all(client.vectorStores.files.content(file, { vector_store_id: store }));
  assert.equal(part.text, panthers);
  await client.vectorStores.files.update(file, { vector_store_id: store, attributes: { year: 2016 } });
  const later = { type: 'gt', key: 'year', value: 2018 };
  const query = 'points of the defense';
  assert.deepEqual(await all(client.vectorStores.search(store, { query, filters: later })), []);
  assert.equal((await client.vectorStores.delete(store)).deleted, true);
  await assert.rejects(client.vectorStores.retrieve(store), NotFoundError);
});

test('answers cite the files that they rest on', async () => {
  const { store, file } = await filled();
  const tools = [{ type: 'file_search', vector_store_ids: [store] }];
  const stream = client.responses.stream({ model, input: question, tools, include: ['file_search_call.results'] });
  const kinds = types(await all(stream));
  for (const step of ['in_progress', 'searching', 'completed']) {
    assert.ok(kinds.includes(`response.file_search_call.${step}`), step);
  }
  assert.ok(kinds.includes('response.output_text.annotation.added'));
  const final = await stream.finalResponse();
  const [search, message] = final.output;
  assert.deepEqual([search.type, search.status], ['file_search_call', 'completed']);
  assert.equal(search.results[0].filename, 'panthers.txt');
  assert.match(final.output_text, /308 points/);
  const [note] = message.content[0].annotations;
  assert.deepEqual([note.type, note.file_id, note.filename], ['file_citation', file, 'panthers.txt']);
  const bare = await client.responses.create({ model, input: question, tools });
  assert.equal(bare.output[0].results, null);
  const whole = await client.responses.retrieve(bare.id, { include: ['file_search_call.results'] });
  assert.deepEqual(whole.output[0].results, search.results);
});

test('models are listed and read', async () => {
  const ids = (await all(client.models.list())).map((one) => one.id);
  assert.ok(ids.includes(model) && ids.includes('backtalk/extractive'), ids);
  assert.equal((await client.models.retrieve('backtalk/extractive')).id, 'backtalk/extractive');
});

test('embeddings are the same in both encodings', async () => {
  const input = ['a cat on a mat', 'a kitten on a rug', 'the price of steel'];
  const body = { model: 'backtalk/static', input };
  const embed = async (fields) => {
    const { data } = await client.embeddings.create({ ...body, ...fields });
    return data.map((one) => one.embedding);
  };
  const coded = await embed(); // the SDK asks for base64 by itself
  const plain = await embed({ encoding_format: 'float' });
  for (const [one, other] of coded.map((vector, i) => [vector, plain[i]])) {
    assert.equal(one.length, other.length);
    assert.ok(one.every((value, i) => Math.abs(value - other[i]) < 1e-6));
  }
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  assert.ok(Math.abs(dot(coded[0], coded[0]) - 1) < 1e-3);
  assert.ok(dot(coded[0], coded[1]) > dot(coded[0], coded[2]));
  assert.equal((await embed({ dimensions: 64 }))[0].length, 64);
});
