import assert from 'node:assert/strict';
import { test } from 'node:test';

import { all, client, model, types, weather } from './talk.mjs';

const question = "What's the weather like in Paris and in San Francisco?";
const include = ['reasoning.encrypted_content', 'message.output_text.logprobs'];
const tools = [{ type: 'function', ...weather, strict: true }];
const shell = [{ type: 'custom', name: 'shell' }];

const bodies = {
  'thinking, summaries and text': { input: '[[summarise]] [[think]] Say exactly: one two three', include },
  'a refusal': { input: '[[think]] [[refuse]]' },
  'two calls': { input: `[[think]] ${question}`, tools },
  'a custom call': { input: 'ls -l', tools: shell, tool_choice: 'required' },
  'a failure': { input: '[[tokens:20]] [[fail:after:8]]' },
  'an end at its limit': { input: '[[tokens:50]]', max_output_tokens: 16 },
};

/** The first events of a stream that is then left. */
async function first(count, body) {
  const seen = [];
  for await (const event of await client.responses.create({ model, ...body, stream: true })) {
    seen.push(event);
    if (seen.length === count) break;
  }
  return seen;
}

const after = async (id, index) => all(await client.responses.retrieve(id, { stream: true, starting_after: index }));

for (const [name, body] of Object.entries(bodies)) {
  test(`${name}: resumed behind each event`, async () => {
    const whole = await all(await client.responses.create({ model, ...body, stream: true }));
    const { id } = whole[0].response;
    for (let index = -1; index < whole.length; index += 1) {
      assert.deepEqual(await after(id, index), whole.slice(index + 1));
    }
  });

  test(`${name}: left while it runs, and gone on with by two at once`, async () => {
    const slow = { ...body, input: `[[pace:0.01]] ${body.input}`, background: true };
    await Promise.all(
      [1, 3, 5, 7].map(async (count) => {
        const seen = await first(count, slow);
        const { id } = seen[0].response;
        const [one, two] = await Promise.all([after(id, seen.at(-1).sequence_number), after(id, -1)]);
        assert.deepEqual([...seen, ...one], two);
        assert.deepEqual(await after(id, -1), two);
        assert.deepEqual(two.map((event) => event.sequence_number), [...two.keys()]);
      }),
    );
  });
}

test('a stream that was aborted resumes to its incomplete end', async () => {
  for (const count of [1, 2, 4, 9, 20]) {
    const seen = await first(count, { input: '[[think]] [[pace:0.02]] [[tokens:5000]]' });
    const { id } = seen[0].response;
    const rest = await after(id, seen.at(-1).sequence_number);
    assert.deepEqual([...seen, ...rest], await after(id, -1));
    assert.equal(types(rest).at(-1), 'response.incomplete');
  }
});
