// What the tests of Vercel's AI SDK share.

import assert from 'node:assert/strict';

import { APICallError, jsonSchema, tool } from 'ai';

import { weather } from './talk.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

export const server = { baseURL: process.env.BASE_URL, apiKey: 'local' };
export const question = "What's the weather like in Paris and San Francisco?";
export const answer = /sunny in Paris[^]*sunny in San Francisco/;
export const picture = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);

export const plan = jsonSchema({
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
  additionalProperties: false,
});

/** Tools whose calls are noted in `asked`. */
export const toolsFor = (asked) => ({
  [weather.name]: tool({
    description: weather.description,
    inputSchema: jsonSchema(weather.parameters),
    execute: ({ location }) => {
      asked.push(location);
      return `sunny in ${location}`;
    },
  }),
});

/** That a promise ends with the SDK's error for an answer of this status, `has` in its data. */
export async function fails(promise, statusCode, has = {}) {
  const error = await promise.then(
    () => assert.fail('it did not fail'),
    (error) => error,
  );
  assert.ok(APICallError.isInstance(error), String(error));
  assert.equal(error.statusCode, statusCode);
  assert.deepEqual({ ...error.data.error, ...has }, error.data.error);
}
