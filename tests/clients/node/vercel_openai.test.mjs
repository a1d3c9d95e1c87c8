import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createOpenAI } from '@ai-sdk/openai';
import { Output, embed, embedMany, generateObject, generateText, stepCountIs, streamObject, streamText } from 'ai';

import { all, client, model as name, types, until } from './talk.mjs';
import { answer, fails, picture, plan, question, server, toolsFor } from './vercel.mjs';

const openai = createOpenAI(server);
const wires = { responses: openai(name), chat: openai.chat(name) };
const maxRetries = 0;

for (const [wire, model] of Object.entries(wires)) {
  test(`${wire}: text is generated`, async () => {
    const made = await generateText({ model, maxRetries, prompt: 'Say exactly: one two three' });
    assert.equal(made.text, 'one two three');
    assert.equal(made.finishReason, 'stop');
    assert.deepEqual(made.warnings, []);
    assert.ok(made.usage.inputTokens > 0);
    assert.equal(made.usage.totalTokens, made.usage.inputTokens + made.usage.outputTokens);
  });

  test(`${wire}: instructions and a talk are kept`, async () => {
    const messages = [
      { role: 'user', content: 'My name is Ada.' },
      { role: 'assistant', content: 'Hello, Ada.' },
      { role: 'user', content: 'What is my name?' },
    ];
    assert.match((await generateText({ model, maxRetries, messages })).text, /Ada/);
    const prompt = 'What are your instructions?';
    assert.match((await generateText({ model, maxRetries, system: 'Speak like a pirate.', prompt })).text, /pirate/);
  });

  test(`${wire}: text is streamed`, async () => {
    const stream = streamText({ model, maxRetries, prompt: '[[tokens:20]]' });
    const said = await all(stream.textStream);
    assert.ok(said.length > 1);
    assert.match(said.join(''), /^word0 .*word19 $/);
    assert.equal(await stream.text, said.join(''));
    assert.equal(await stream.finishReason, 'stop');
    assert.equal((await stream.usage).outputTokens, 20);
  });

  test(`${wire}: a full stream begins and ends all that it holds`, async () => {
    const parts = await all(streamText({ model, maxRetries, prompt: 'Say exactly: a b' }).fullStream);
    const told = types(parts).filter((type) => type !== 'text-delta');
    assert.deepEqual(told, ['start', 'start-step', 'text-start', 'text-end', 'finish-step', 'finish']);
  });

  test(`${wire}: the limit of tokens is a reason to finish`, async () => {
    const made = await generateText({ model, maxRetries, prompt: '[[tokens:50]]', maxOutputTokens: 16 });
    assert.deepEqual([made.finishReason, made.usage.outputTokens], ['length', 16]);
  });

  test(`${wire}: tools run until there is an answer`, async () => {
    const asked = [];
    const body = { model, maxRetries, prompt: question, tools: toolsFor(asked), stopWhen: stepCountIs(4) };
    const made = await generateText(body);
    assert.match(made.text, answer);
    assert.deepEqual(asked, ['Paris', 'San Francisco']);
    assert.deepEqual(made.steps.map((step) => step.finishReason), ['tool-calls', 'stop']);
  });

  test(`${wire}: tools run in a stream`, async () => {
    const asked = [];
    const tools = toolsFor(asked);
    const stream = streamText({ model, maxRetries, prompt: question, tools, stopWhen: stepCountIs(4) });
    const seen = types(await all(stream.fullStream));
    for (const type of ['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call', 'tool-result']) {
      assert.ok(seen.includes(type), type);
    }
    assert.match(await stream.text, answer);
    assert.deepEqual(asked, ['Paris', 'San Francisco']);
    assert.equal((await stream.steps).length, 2);
  });

  test(`${wire}: the choice of tools is obeyed`, async () => {
    const calls = async (toolChoice, prompt) => {
      const made = await generateText({ model, maxRetries, prompt, toolChoice, tools: toolsFor([]) });
      return made.toolCalls.length;
    };
    assert.equal(await calls('none', question), 0);
    assert.equal(await calls('required', 'Hello'), 1);
    assert.equal(await calls({ type: 'tool', toolName: 'get_weather' }, 'Hello'), 1);
  });

  test(`${wire}: objects keep to their schema`, async () => {
    const body = { model, maxRetries, prompt: 'Plan 3 days in Rome, please.' };
    const expected = { city: 'Rome', days: 3 };
    assert.deepEqual((await generateObject({ ...body, schema: plan })).object, expected);
    assert.deepEqual((await generateText({ ...body, output: Output.object({ schema: plan }) })).output, expected);
    const stream = streamObject({ ...body, schema: plan });
    assert.deepEqual((await all(stream.partialObjectStream)).at(-1), expected);
    assert.deepEqual(await stream.object, expected);
    const text = streamText({ ...body, output: Output.object({ schema: plan }) });
    assert.deepEqual((await all(text.partialOutputStream)).at(-1), expected);
    assert.equal(typeof (await generateText({ ...body, output: Output.json() })).output, 'object');
  });

  test(`${wire}: an image is seen`, async () => {
    const image = { type: 'file', data: picture, mediaType: 'image/png' };
    const content = [{ type: 'text', text: 'Look' }, image];
    const made = await generateText({ model, maxRetries, messages: [{ role: 'user', content }] });
    assert.match(made.text, /You sent 1 image/);
  });

  test(`${wire}: log probabilities are kept`, async () => {
    const providerOptions = { openai: { logprobs: 1 } };
    const made = await generateText({ model, maxRetries, prompt: 'Say exactly: a', providerOptions });
    assert.equal(made.providerMetadata.openai.logprobs.flat()[0].token, 'a');
  });

  test(`${wire}: an aborted stream ends as aborted`, async () => {
    const abort = new AbortController();
    const prompt = '[[tokens:5000]] [[pace:0.02]]';
    const stream = streamText({ model, maxRetries, prompt, abortSignal: abort.signal });
    const seen = [];
    for await (const part of stream.fullStream) {
      seen.push(part.type);
      if (part.type === 'text-delta') abort.abort();
    }
    assert.equal(seen.at(-1), 'abort');
    assert.ok(!seen.includes('error'));
  });

  test(`${wire}: errors tell their status and what is wrong`, async () => {
    const make = (prompt, more) => generateText({ model, maxRetries, prompt, ...more });
    await fails(make('x', { temperature: 99 }), 400, { param: 'temperature' });
    await fails(make('[[fail:before]]'), 502, { type: 'server_error' });
    await fails(make('[[fail:429]]'), 429, { code: 'rate_limit_exceeded' });
  });

  test(`${wire}: a failure in a stream is a part of it`, async () => {
    const onError = () => {};
    const prompt = '[[tokens:20]] [[fail:after:5]]';
    const parts = await all(streamText({ model, maxRetries, prompt, onError }).fullStream);
    assert.equal(parts.filter((part) => part.type === 'text-delta').length, 5);
    const { error } = parts.find((part) => part.type === 'error');
    assert.match(JSON.stringify(error.message ?? error), /told to fail/);
    assert.equal(parts.at(-1).finishReason, 'error');
  });
}

test('a model that is not there is a 404', async () => {
  for (const model of [openai('nobody'), openai.chat('nobody')]) {
    await fails(generateText({ model, maxRetries, prompt: 'x' }), 404, { code: 'model_not_found', param: 'model' });
  }
});

test('what may pass is tried again, and no other failure', async () => {
  const tried = async (prompt) => {
    let tries = 0;
    const counting = createOpenAI({ ...server, fetch: (...request) => (tries++, fetch(...request)) });
    await assert.rejects(generateText({ model: counting(name), maxRetries: 1, prompt }));
    return tries;
  };
  assert.equal(await tried('[[fail:429]]'), 2);
  assert.equal(await tried('x'.repeat(11_000_000)), 1);
});

test('a response is gone on from', async () => {
  const model = wires.responses;
  const first = await generateText({ model, maxRetries, prompt: 'My name is Ada.' });
  const { responseId } = first.providerMetadata.openai;
  const providerOptions = { openai: { previousResponseId: responseId } };
  const second = await generateText({ model, maxRetries, prompt: 'What is my name?', providerOptions });
  assert.match(second.text, /Ada/);
  const { previous_response_id } = await client.responses.retrieve(second.providerMetadata.openai.responseId);
  assert.equal(previous_response_id, responseId);
});

test('summaries of thinking are parts, and are handed back with the calls that follow', async () => {
  const providerOptions = { openai: { store: false, forceReasoning: true, reasoningSummary: 'auto' } };
  const prompt = `[[summarise]] ${question}`;
  const body = { model: wires.responses, maxRetries, prompt, providerOptions, stopWhen: stepCountIs(4) };
  const made = await generateText({ ...body, tools: toolsFor([]) });
  assert.equal(made.steps[0].reasoningText, 'The user asks for something.A short answer will do.');
  assert.equal(made.steps[0].reasoning.at(-1).providerMetadata.openai.reasoningEncryptedContent, 'sealed');
  assert.match(made.text, answer);
  const parts = types(await all(streamText({ ...body, tools: toolsFor([]) }).fullStream));
  assert.ok(parts.filter((type) => type === 'reasoning-start').length >= 2);
  assert.equal(
    parts.filter((type) => type === 'reasoning-start').length,
    parts.filter((type) => type === 'reasoning-end').length,
  );
});

test('an aborted response is kept as far as it came', async () => {
  const abort = new AbortController();
  const prompt = '[[tokens:5000]] [[pace:0.02]]';
  const body = { model: wires.responses, maxRetries, prompt, includeRawChunks: true };
  const stream = streamText({ ...body, abortSignal: abort.signal });
  let id;
  for await (const part of stream.fullStream) {
    if (part.type === 'raw') id ??= part.rawValue.response?.id;
    if (part.type === 'text-delta') abort.abort();
  }
  const kept = await until(async () => {
    const found = await client.responses.retrieve(id);
    return found.status === 'in_progress' ? null : found;
  });
  assert.equal(kept.status, 'incomplete');
  assert.match(kept.output_text, /^word0 /);
});

test('texts are embedded, one and many', async () => {
  const model = openai.embeddingModel('backtalk/static');
  const one = await embed({ model, maxRetries, value: 'a cat' });
  const many = await embedMany({ model, maxRetries, values: ['a cat', 'a stock exchange'] });
  assert.deepEqual(many.embeddings[0], one.embedding);
  assert.notDeepEqual(many.embeddings[1], one.embedding);
  assert.ok(one.usage.tokens > 0);
  await fails(embed({ model: openai.embeddingModel('nobody'), maxRetries, value: 'x' }), 404);
});

test('the older completions are spoken too', async () => {
  const made = await generateText({ model: openai.completion(name), maxRetries, prompt: 'Hello' });
  assert.match(made.text, /Hello/);
});
