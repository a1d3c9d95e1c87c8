import assert from 'node:assert/strict';
import { test } from 'node:test';

import { standardResponsesFunction, standardTextFormat } from 'openai/helpers/standard-schema';

import { client, model, weather } from './talk.mjs';

const schema = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
  additionalProperties: false,
};
const question = 'Plan 3 days in Rome, please.';

/** A validator as zod would be one: https://standardschema.dev. */
const validator = (valid) => ({
  '~standard': {
    version: 1,
    vendor: 'backtalk',
    validate: (value) => (valid(value) ? { value } : { issues: [{ message: 'it does not fit' }] }),
  },
});

test('a raw JSON schema is kept, and parsed', async () => {
  const format = { type: 'json_schema', name: 'plan', schema, strict: true };
  const response = await client.responses.parse({ model, input: question, text: { format } });
  assert.deepEqual(response.output_parsed, { city: 'Rome', days: 3 });
  assert.deepEqual(JSON.parse(response.output_text), response.output_parsed);
  assert.equal(response.text.format.type, 'json_schema');
});

test("a validator's format is parsed by create and by stream", async () => {
  const plan = validator((value) => typeof value.city === 'string' && Number.isInteger(value.days));
  const body = { model, input: question, text: { format: standardTextFormat(plan, 'plan', { schema }) } };
  assert.deepEqual((await client.responses.parse(body)).output_parsed, { city: 'Rome', days: 3 });
  assert.deepEqual((await client.responses.stream(body).finalResponse()).output_parsed, { city: 'Rome', days: 3 });
});

test("a function's arguments are parsed", async () => {
  const place = validator((value) => typeof value.location === 'string');
  const tool = standardResponsesFunction({ ...weather, parameters: place, schema: weather.parameters });
  const response = await client.responses.parse({ model, input: "What's the weather like in Rome?", tools: [tool] });
  assert.deepEqual(response.output[0].parsed_arguments, { location: 'Rome' });
});

test('chat completions are parsed', async () => {
  const completion = await client.chat.completions.parse({
    model,
    messages: [{ role: 'user', content: question }],
    response_format: { type: 'json_schema', json_schema: { name: 'plan', schema, strict: true } },
  });
  assert.deepEqual(JSON.parse(completion.choices[0].message.content), { city: 'Rome', days: 3 });
});
