import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ResponsesToolRunner } from 'openai/helpers/responses-tool-runner';

import { all, client, model, weather } from './talk.mjs';

const tool = { type: 'function', ...weather, strict: true };
const tools = [tool];
const question = "What's the weather like in Paris and San Francisco?";

const outputs = (response) =>
  response.output
    .filter((item) => item.type === 'function_call')
    .map((call) => ({
      type: 'function_call_output',
      call_id: call.call_id,
      output: `sunny in ${JSON.parse(call.arguments).location}`,
    }));

test('parallel calls go out, and their outputs come back', async () => {
  const asked = await client.responses.create({ model, input: question, tools });
  assert.deepEqual(
    asked.output.map((call) => [call.type, call.name, JSON.parse(call.arguments)]),
    ['Paris', 'San Francisco'].map((location) => ['function_call', 'get_weather', { location }]),
  );
  assert.equal(asked.output_text, '');
  const answer = await client.responses.create({
    model,
    input: outputs(asked),
    tools,
    previous_response_id: asked.id,
  });
  assert.match(answer.output_text, /sunny in Paris[^]*sunny in San Francisco/);
});

test('the same round trip without a server that remembers', async () => {
  const input = [{ role: 'user', content: question }];
  const asked = await client.responses.create({ model, input, tools, store: false });
  input.push(...asked.output, ...outputs(asked));
  const answer = await client.responses.create({ model, input, tools, store: false });
  assert.match(answer.output_text, /sunny in Paris[^]*sunny in San Francisco/);
});

test('tool_choice and parallel_tool_calls are obeyed', async () => {
  const calls = async (fields) => {
    const response = await client.responses.create({ model, input: question, tools, ...fields });
    return response.output.filter((item) => item.type === 'function_call').length;
  };
  assert.equal(await calls({ parallel_tool_calls: false }), 1);
  assert.equal(await calls({ tool_choice: 'none' }), 0);
  assert.equal(await calls({ tool_choice: 'required', input: 'Hello' }), 1);
  assert.equal(await calls({ tool_choice: { type: 'function', name: 'get_weather' }, input: 'Hello' }), 1);
});

test('arguments stream, and the helper keeps them together', async () => {
  const stream = client.responses.stream({ model, input: question, tools });
  const events = await all(stream);
  const final = await stream.finalResponse();
  assert.equal(final.output.length, 2);
  for (const [index, call] of final.output.entries()) {
    const own = events.filter((event) => event.output_index === index);
    const pieces = own.filter((event) => event.type === 'response.function_call_arguments.delta');
    assert.ok(pieces.length);
    assert.equal(pieces.map((event) => event.delta).join(''), call.arguments);
    assert.equal(own.find((event) => event.type === 'response.function_call_arguments.done').arguments, call.arguments);
    assert.deepEqual(call.parsed_arguments, JSON.parse(call.arguments));
  }
});

for (const stream of [false, true]) {
  test(`the SDK's tool runner runs to the answer, ${stream ? 'streamed' : 'plain'}`, async () => {
    const asked = [];
    const execute = ({ location }) => {
      asked.push(location);
      return `sunny in ${location}`;
    };
    const runner = new ResponsesToolRunner({ functions: [{ tool, execute }] });
    const final = await runner.run(client, { model, input: question }, { stream });
    assert.deepEqual(asked, ['Paris', 'San Francisco']);
    assert.match(final.output_text, /sunny in Paris[^]*sunny in San Francisco/);
  });
}
