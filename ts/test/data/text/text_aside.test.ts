import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type TextStore, textPipeline } from '../../../src/data/text/text.js';
import { tokenizeAside } from '../../../src/data/text/text_aside.js';
import { openTextCache, sha256 } from '../../../src/data/text/text_cache.js';
import { loadTokenizer, type TextTokenizer } from '../../../src/data/text/tokenizer.js';
import { buildWordVocabulary } from '../../../src/data/text/word_vocabulary.js';
import { DataError, ModelFileError } from '../../../src/errors.js';
import { sharedData } from '../../shared_data.js';
import { buildWorker } from '../loader/worker_build.js';

const built = buildWorker(['data/text/text_worker.ts']);
const folder = mkdtempSync(join(tmpdir(), 'galago-text-'));
afterAll(() => {
  built.remove();
  rmSync(folder, { recursive: true });
});

const fields = [
  { name: 'title', maxLen: 3 },
  { name: 'plot', maxLen: 20 },
];
const words = Array.from({ length: 40 }, (_, i) => `w${i}`);
const tokenizer = buildWordVocabulary([words.join(' ')], { minCount: 1 });
const pipeline = textPipeline({ tokenizer, fields });
const rows = 2400;
const columns = {
  title: Array.from({ length: rows }, (_, i) =>
    i % 7 === 0 ? null : `${words[i % 40]} zzz ${words[(3 * i) % 40]} w1`,
  ),
  plot: Array.from({ length: rows }, (_, i) => words.slice(0, i % 40).join(' ')),
};
const workerUrl = built.url;

/** The same tokenizer, which counts its calls and cannot be made again by a thread. */
function counting(): TextTokenizer & { calls: number } {
  const { kind, size, special, digest } = tokenizer;
  const counted = { kind, size, special, digest, calls: 0, encode: tokenizer.encode };
  counted.encode = (text) => {
    counted.calls++;
    return tokenizer.encode(text);
  };
  return counted;
}

describe('tokenizeAside', () => {
  it('gives what the calling thread gives, in shared memory, and lets the event loop turn', async () => {
    const here = await pipeline.tokenizeAll(columns);
    const seen: number[] = [];
    const there = await tokenizeAside(pipeline, columns, { workerUrl, onProgress: (done) => seen.push(done) });
    expect(there).toEqual(here);
    expect(there.store.tokens.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(seen.length).toBeGreaterThan(1);
    expect(seen.at(-1)).toBe(rows);
  });

  it('stays on the calling thread for few texts, without a recipe and without a worker', async () => {
    const bad = join(folder, 'bad.mjs');
    writeFileSync(bad, "throw new Error('started')");
    const url = new URL(`file://${bad}`);
    const few = { title: ['w1'], plot: ['w2 w3'] };
    expect(await tokenizeAside(pipeline, few, { workerUrl: url })).toEqual(await pipeline.tokenizeAll(few));
    const own = counting();
    const expected = await pipeline.tokenizeAll(columns);
    expect(await tokenizeAside(textPipeline({ tokenizer: own, fields }), columns, { workerUrl: url })).toEqual(
      expected,
    );
    expect(own.calls).toBe(2 * rows);
    const nowhere = new URL('file:///nowhere/text_worker.js');
    expect(await tokenizeAside(pipeline, columns, { workerUrl: nowhere })).toEqual(expected);
    await expect(tokenizeAside(pipeline, columns, { workerUrl: url })).rejects.toThrow(
      /its thread failed: Error: started/,
    );
  });

  it('F11: a text that is no Unicode is an error with field, row and byte, from the thread too', async () => {
    const broken = { ...columns, plot: columns.plot.with(1900, 'wé\ud800') };
    for (const options of [{ workerUrl }, { workerUrl: new URL('file:///nowhere') }]) {
      const error = await tokenizeAside(pipeline, broken, options).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(DataError);
      expect(error).toMatchObject({
        message: 'tokenizeAll: expected Unicode in field plot but row 1900 holds half a surrogate pair at byte 3',
        fields: { column: 'plot', row: 1900, byte: 3 },
      });
    }
    expect((await tokenizeAside(pipeline, { title: ['a🎉'], plot: [null] })).statistics.texts).toBe(1);
  });

  it('F40: stops when aborted, and refuses ragged columns at once', async () => {
    const stop = new AbortController();
    const run = tokenizeAside(pipeline, columns, {
      workerUrl,
      signal: stop.signal,
      onProgress: () => stop.abort(new Error('enough')),
    });
    await expect(run).rejects.toThrow('enough');
    await expect(tokenizeAside(pipeline, { title: ['a'], plot: [] }, { workerUrl })).rejects.toThrow(
      /expected 1 texts/,
    );
  });

  it('refuses a tokenizer file that changed meanwhile', async () => {
    const file = join(folder, 'vocab.txt');
    writeFileSync(file, ['[UNK]', '[CLS]', '[SEP]', ...words].join('\n'));
    const loaded = textPipeline({ tokenizer: await loadTokenizer(file), fields });
    expect(await tokenizeAside(loaded, columns, { workerUrl })).toEqual(await loaded.tokenizeAll(columns));
    writeFileSync(file, ['[UNK]', '[CLS]', '[SEP]', ...words, 'more'].join('\n'));
    await expect(tokenizeAside(loaded, columns, { workerUrl })).rejects.toThrow(ModelFileError);
  });

  const tokenizers = sharedData('tokenizers');
  it.skipIf(tokenizers === null)('gives the golden ids of item texts, from a thread (internal test data)', async () => {
    const lines = readFileSync(join(tokenizers!, 'golden', 'ml-posters.tokens.jsonl'), 'utf8')
      .trim()
      .split('\n');
    const golden = lines.map((line) => JSON.parse(line) as { text: string; bert: number[]; roberta: number[] });
    for (const [name, key] of [
      ['bert-base-uncased', 'bert'],
      ['roberta-base', 'roberta'],
    ] as const) {
      const made = textPipeline({
        tokenizer: await loadTokenizer(join(tokenizers!, name)),
        fields: [{ name: 'text', maxLen: 4096 }],
      });
      const { store } = await tokenizeAside(made, { text: golden.map(({ text }) => text) }, { workerUrl });
      golden.forEach((one, row) => {
        const ids = [...store.tokens.subarray(store.offsets[row], store.offsets[row + 1])];
        expect(ids, String(row)).toEqual(one[key].slice(0, -1)); // the layout has no separator at the end
      });
    }
  });
});

describe('a cache of tokenised texts', () => {
  const directory = join(folder, 'cache');
  const file = (): string =>
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))[0]!;

  it('gives back what was written, by tokenizer, layout and texts', async () => {
    const cache = openTextCache(directory);
    const key = await cache.key(pipeline, columns);
    expect(await cache.read(key)).toBeNull();
    const made: TextStore = await pipeline.tokenizeAll(columns);
    await cache.write(key, made);
    const read = await openTextCache(directory).read(key);
    expect(read).toEqual(made);
    expect(read!.store.offsets.buffer).toBeInstanceOf(SharedArrayBuffer);
    const others = await Promise.all([
      cache.key(pipeline, { ...columns, title: columns.title.with(5, 'w3') }),
      cache.key(pipeline, { ...columns, title: columns.title.with(0, '') }), // null before
      cache.key(textPipeline({ tokenizer, fields: [fields[1]!, fields[0]!] }), columns),
      cache.key(textPipeline({ tokenizer, fields, positions: 'per_field' }), columns),
      cache.key(textPipeline({ tokenizer: buildWordVocabulary(['a a']), fields }), columns),
    ]);
    expect(new Set([key, ...others]).size).toBe(6);
    expect(await cache.key(textPipeline({ tokenizer, fields }), { ...columns })).toBe(key);
    expect([cache.corrupt, cache.failedWrites]).toEqual([0, 0]);
  });

  it('F01: takes a file that was cut or altered for none', async () => {
    const cache = openTextCache(directory);
    const key = await cache.key(pipeline, columns);
    const bytes = readFileSync(file());
    for (const bad of [bytes.subarray(0, 1000), bytes.subarray(0, 0), Buffer.from(bytes).fill(7, 5000, 5001)]) {
      writeFileSync(file(), bad);
      expect(await cache.read(key)).toBeNull();
    }
    expect(cache.corrupt).toBe(3);
    writeFileSync(file(), bytes);
    expect(await cache.read(key)).not.toBeNull();
  });

  it('counts a file that the system refuses, and hashes long ones in turns', async () => {
    const cache = openTextCache(directory);
    mkdirSync(join(directory, 'ab', '12.tokens'), { recursive: true });
    expect(await cache.read('ab12')).toBeNull();
    expect(await cache.read('abcd')).toBeNull();
    expect(cache.corrupt).toBe(1);
    const bytes = Buffer.alloc(3_000_001, 'abc');
    expect(await sha256(bytes, 1000)).toEqual(await sha256(bytes));
  });

  it('F04: goes on where it cannot write', async () => {
    writeFileSync(join(folder, 'file'), '');
    const cache = openTextCache(join(folder, 'file', 'below'));
    await cache.write('ab12', await pipeline.tokenizeAll({ title: ['w1'], plot: ['w2'] }));
    expect(cache.failedWrites).toBe(1);
  });

  it('saves the second load of the same data every call of the tokenizer', async () => {
    const { loadDataset } = await import('../../../src/data/load_dataset.js');
    const own = counting();
    const load = async () => {
      await using data = await loadDataset(
        { shop: { items: 40, users: 20, sessions: 240 } },
        { text: { tokenizer: own, cacheDir: join(folder, 'loads') }, workers: 0 },
      );
      return { digest: data.digest, statistics: data.textStatistics, counters: data.counters };
    };
    const first = await load();
    expect(own.calls).toBeGreaterThan(80);
    expect(first.counters['textFromCache:item']).toBe(0);
    const before = own.calls;
    const second = await load();
    expect(own.calls).toBe(before);
    expect(second.counters['textFromCache:item']).toBe(40);
    expect([second.digest, second.statistics]).toEqual([first.digest, first.statistics]);
  });
});
