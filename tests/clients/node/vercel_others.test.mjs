import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { Output, generateText, stepCountIs, streamText } from 'ai';

import { all, model as name, types } from './talk.mjs';
import { answer, fails, picture, plan, question, server, toolsFor } from './vercel.mjs';

const compatible = { ...server, name: 'backtalk', includeUsage: true, supportsStructuredOutputs: true };
const wires = { compatible: createOpenAICompatible(compatible), anthropic: createAnthropic(server) };
const maxRetries = 0;

for (const [wire, provider] of Object.entries(wires)) {
  const model = provider(name);
  
  test(`${wire}: text is generated`, async () => {
    const made = await generateText({ model, maxRetries, prompt: 'Say exactly: one two three' });
    assert.deepEqual([made.text, made.finishReason], ['one two three', 'stop']);
    assert.ok(made.usage.inputTokens > 0 && made.usage.outputTokens > 0);
  });

  test(`${wire}: text is streamed, thinking before it`, async () => {
    const stream = streamText({ model, maxRetries, prompt: '[[think]] [[tokens:20]]' });
    const parts = types(await all(stream.fullStream));
    assert.ok(parts.indexOf('reasoning-end') < parts.indexOf('text-start'));
    assert.match(await stream.text, /^word0 .*word19 $/);
    assert.equal(await stream.reasoningText, 'Let me think about that.');
    assert.ok((await stream.usage).outputTokens >= 20);
  });

  test(`${wire}: tools run until there is an answer, plain and streamed`, async () => {
    for (const run of [generateText, streamText]) {
      const asked = [];
      const prompt = `[[think]] ${question}`;
      const made = await run({ model, maxRetries, prompt, tools: toolsFor(asked), stopWhen: stepCountIs(4) });
      assert.match(await made.text, answer);
      assert.deepEqual(asked, ['Paris', 'San Francisco']);
      assert.equal((await made.steps).length, 2);
    }
  });

  test(`${wire}: objects keep to their schema`, async () => {
    const body = { model, maxRetries, prompt: 'Plan 3 days in Rome, please.' };
    const made = await generateText({ ...body, output: Output.object({ schema: plan }) });
    assert.deepEqual(made.output, { city: 'Rome', days: 3 });
  });

  test(`${wire}: images and text files are seen`, async () => {
    const image = { type: 'file', data: picture, mediaType: 'image/png' };
    const file = { type: 'file', data: new TextEncoder().encode('A cat.'), mediaType: 'text/plain' };
    const ask = (part) => {
      const content = [{ type: 'text', text: 'Look' }, part];
      return generateText({ model, maxRetries, messages: [{ role: 'user', content }] });
    };
    assert.match((await ask(image)).text, /You sent 1 image/);
    assert.match((await ask(file)).text, /A cat\./);
  });

  test(`${wire}: the limit of tokens is a reason to finish`, async () => {
    const made = await generateText({ model, maxRetries, prompt: '[[tokens:50]]', maxOutputTokens: 16 });
    assert.deepEqual([made.finishReason, made.usage.outputTokens], ['length', 16]);
  });

  test(`${wire}: errors tell their status, before a stream and in it`, async () => {
    await fails(generateText({ model: provider('nobody'), maxRetries, prompt: 'x' }), 404);
    await fails(generateText({ model, maxRetries, prompt: '[[fail:429]]' }), 429, { type: 'rate_limit_error' });
    const prompt = '[[tokens:20]] [[fail:after:5]]';
    const parts = await all(streamText({ model, maxRetries, prompt, onError: () => {} }).fullStream);
    assert.equal(parts.filter((part) => part.type === 'text-delta').length, 5);
    assert.match(JSON.stringify(parts.find((part) => part.type === 'error').error), /told to fail/);
  });
}
