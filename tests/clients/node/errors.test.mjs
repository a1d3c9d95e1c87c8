import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  APIConnectionTimeoutError,
  APIError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai';

import { all, client, model } from './talk.mjs';

/** The error of a call, which must be of a class. */
async function failure(call, kind) {
  const error = await call.then(
    () => assert.fail('it did not fail'),
    (found) => found,
  );
  assert.ok(error instanceof kind, `${error}`);
  return error;
}

const messages = [{ role: 'user', content: 'Hello' }];

for (const [name, call] of [
  ['responses', () => client.responses.create({ model: 'no-such-model', input: 'Hello' })],
  ['streamed responses', () => client.responses.create({ model: 'no-such-model', input: 'Hello', stream: true })],
  ['the stream helper', () => client.responses.stream({ model: 'no-such-model', input: 'Hello' }).finalResponse()],
  ['chat completions', () => client.chat.completions.create({ model: 'no-such-model', messages })],
  ['embeddings', () => client.embeddings.create({ model: 'no-such-model', input: 'Hello' })],
]) {
  test(`an unknown model of ${name} is not found`, async () => {
    const error = await failure(call(), NotFoundError);
    assert.deepEqual([error.status, error.code, error.param], [404, 'model_not_found', 'model']);
    assert.equal(error.type, 'invalid_request_error');
    assert.match(error.requestID, /^req_/);
  });
}

test('a mistake in a body names its parameter', async () => {
  for (const [body, param] of [
    [{ input: 'x', temperature: 9 }, 'temperature'],
    [{ input: 'x', max_output_tokens: 'many' }, 'max_output_tokens'],
    [{ input: [{ role: 'user', content: [{ type: 'input_image', image_url: 5 }] }] }, 'input[0].content[0].image_url'],
    [{ input: 'x', tools: [{ type: 'function', parameters: {} }] }, 'tools[0].name'],
  ]) {
    const error = await failure(client.responses.create({ model, ...body }), BadRequestError);
    assert.deepEqual([error.status, error.param], [400, param]);
    assert.ok(error.code);
  }
});

test('an unknown previous response is told by its code', async () => {
  const call = client.responses.create({ model, input: 'x', previous_response_id: 'resp_none' });
  const error = await failure(call, BadRequestError);
  assert.deepEqual([error.code, error.param], ['previous_response_not_found', 'previous_response_id']);
});

test('what is not there is not found', async () => {
  for (const call of [
    () => client.responses.retrieve('resp_none'),
    () => client.responses.retrieve('resp_none', { stream: true }),
    () => client.responses.cancel('resp_none'),
    () => client.responses.delete('resp_none'),
    () => client.responses.inputItems.list('resp_none'),
    () => client.conversations.retrieve('conv_none'),
    () => client.files.retrieve('file-none'),
    () => client.files.content('file-none'),
    () => client.vectorStores.retrieve('vs_none'),
    () => client.models.retrieve('no/such/model'),
  ]) {
    assert.equal((await failure(call(), NotFoundError)).status, 404);
  }
});

test('a limited model is a RateLimitError, and the SDK tries again', async () => {
  const body = { model, input: '[[fail:429]]' };
  const error = await failure(client.responses.create(body), RateLimitError);
  assert.ok(Number(error.headers.get('retry-after')) > 0);
  let tries = 0;
  const counting = (...request) => {
    tries += 1;
    return fetch(...request);
  };
  await failure(client.withOptions({ fetch: counting, maxRetries: 1 }).responses.create(body), RateLimitError);
  assert.equal(tries, 2);
});

test('a model that does not begin is an error of the server', async () => {
  await failure(client.responses.create({ model, input: '[[fail:before]]' }), InternalServerError);
});

test('a model that breaks off ends its stream as failed', async () => {
  const stream = client.responses.stream({ model, input: '[[tokens:20]] [[fail:after:5]]' });
  const events = await all(stream);
  assert.equal(events.at(-1).type, 'response.failed');
  const final = await stream.finalResponse();
  assert.deepEqual([final.status, final.error.code], ['failed', 'server_error']);
  assert.match(final.output_text, /^word0 /);
});

test('a model that breaks off makes the stream of a completion throw', async () => {
  const broken = [{ role: 'user', content: '[[tokens:20]] [[fail:after:5]]' }];
  const stream = await client.chat.completions.create({ model, messages: broken, stream: true });
  const error = await failure(all(stream), APIError);
  assert.match(error.message, /told to fail/);
});

test("a timeout is the SDK's own error", async () => {
  const call = client.responses.create({ model, input: '[[stall]]' }, { timeout: 200 });
  await failure(call, APIConnectionTimeoutError);
});
