import assert from 'node:assert/strict';
import { test } from 'node:test';

import { all, client, model, weather } from './talk.mjs';

const question = "What's the weather like in Paris and San Francisco?";
const tools = [{ type: 'function', function: weather }];
const user = (content) => [{ role: 'user', content }];

test('a completion is made', async () => {
  const messages = [{ role: 'system', content: 'Be brief.' }, ...user('Hello')];
  const made = await client.chat.completions.create({ model, messages });
  assert.equal(made.object, 'chat.completion');
  assert.equal(made.choices[0].message.content, 'You said: Hello');
  assert.equal(made.choices[0].finish_reason, 'stop');
  assert.equal(made.usage.total_tokens, made.usage.prompt_tokens + made.usage.completion_tokens);
  assert.match(made._request_id, /^req_/);
});

test('a completion streams, with its usage when asked for', async () => {
  const body = { model, messages: user('Say exactly: one two three'), stream: true };
  const chunks = await all(await client.chat.completions.create({ ...body, stream_options: { include_usage: true } }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'one two three');
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
});

test('the stream helper accumulates a completion', async () => {
  const stream = client.chat.completions.stream({ model, messages: user('[[tokens:20]]') });
  const deltas = [];
  stream.on('content.delta', ({ delta }) => deltas.push(delta));
  const final = await stream.finalChatCompletion();
  assert.equal(deltas.join(''), final.choices[0].message.content);
  assert.equal(await stream.finalContent(), final.choices[0].message.content);
  assert.equal(final.choices[0].finish_reason, 'stop');
});

test('tool calls go out, and their results come back', async () => {
  const messages = user(question);
  const asked = (await client.chat.completions.create({ model, messages, tools })).choices[0];
  assert.equal(asked.finish_reason, 'tool_calls');
  assert.deepEqual(
    asked.message.tool_calls.map((call) => JSON.parse(call.function.arguments).location),
    ['Paris', 'San Francisco'],
  );
  messages.push(asked.message);
  for (const call of asked.message.tool_calls) {
    const { location } = JSON.parse(call.function.arguments);
    messages.push({ role: 'tool', tool_call_id: call.id, content: `sunny in ${location}` });
  }
  const answer = await client.chat.completions.create({ model, messages, tools });
  assert.match(answer.choices[0].message.content, /sunny in Paris[^]*sunny in San Francisco/);
});

for (const stream of [false, true]) {
  test(`runTools runs to the answer, ${stream ? 'streamed' : 'plain'}`, async () => {
    const asked = [];
    const run = ({ location }) => {
      asked.push(location);
      return `sunny in ${location}`;
    };
    const runner = client.chat.completions.runTools({
      model,
      messages: user(question),
      stream,
      tools: [{ type: 'function', function: { ...weather, function: run, parse: JSON.parse } }],
    });
    assert.match(await runner.finalContent(), /sunny in Paris[^]*sunny in San Francisco/);
    assert.deepEqual(asked.sort(), ['Paris', 'San Francisco']);
  });
}

test('a refusal streams as one', async () => {
  const stream = client.chat.completions.stream({ model, messages: user('[[refuse]]') });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  assert.match(message.refusal, /cannot help/);
  assert.ok(!message.content);
});
