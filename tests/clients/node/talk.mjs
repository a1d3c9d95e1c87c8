// What the tests of this folder share: the client, and words that the scripted model understands.

import { File } from 'node:buffer';

import OpenAI from 'openai';

globalThis.File ??= File; // Node.js 18 has it, but not as a global, where the SDK looks for it

if (!process.env.BASE_URL) throw new Error('BASE_URL must name a server: http://127.0.0.1:8000/v1');

export const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: 'local', maxRetries: 0, timeout: 60_000 });

export const model = 'scripted';

export const weather = {
  name: 'get_weather',
  description: 'The weather at a place.',
  parameters: {
    type: 'object',
    properties: { location: { type: 'string' } },
    required: ['location'],
    additionalProperties: false,
  },
};

export async function all(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

export const types = (events) => events.map((event) => event.type);

/** The deltas of a response's text, joined. */
export const said = (events) =>
  events
    .filter((event) => event.type === 'response.output_text.delta')
    .map((event) => event.delta)
    .join('');

/** Waits for something that must come true, and returns it. */
export async function until(check, timeout = 40_000) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`it never came true: ${check}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

export const polled = (id) =>
  until(async () => {
    const response = await client.responses.retrieve(id);
    return ['queued', 'in_progress'].includes(response.status) ? null : response;
  });
