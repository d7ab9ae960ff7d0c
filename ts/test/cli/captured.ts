import { PassThrough } from 'node:stream';
import { runCommand } from '../../src/cli/commands.js';
import type { Verb } from '../../src/cli/verb.js';

export interface Captured {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A stream that keeps what is written to it. */
export function sink(): { stream: PassThrough; text(): string } {
  const stream = new PassThrough();
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return { stream, text: () => Buffer.concat(chunks).toString('utf8') };
}

/** Runs one command line inside this process. */
export async function captured(argv: readonly string[], verbs?: readonly Verb[]): Promise<Captured> {
  const stdout = sink();
  const stderr = sink();
  const exitCode = await runCommand(argv, { stdout: stdout.stream, stderr: stderr.stream }, verbs);
  await new Promise((resolve) => setImmediate(resolve));
  return { exitCode, stdout: stdout.text(), stderr: stderr.text() };
}

/** The last line of a text, as JSON. */
export function lastJson(text: string): unknown {
  return JSON.parse(text.trimEnd().split('\n').at(-1) ?? '');
}
