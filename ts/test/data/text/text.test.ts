import { setImmediate } from 'node:timers';
import { describe, expect, it } from 'vitest';
import { cutToBytes, MAX_FIELD_BYTES, textPipeline } from '../../../src/data/text/text.js';
import { buildWordVocabulary } from '../../../src/data/text/word_vocabulary.js';
import { ArgumentError, DataError } from '../../../src/errors.js';

const tokenizer = buildWordVocabulary(['a b c d e f g'], { minCount: 1 }); // a = 4, b = 5, ...
const fields = [
  { name: 'title', maxLen: 3 },
  { name: 'plot', maxLen: 2 },
  { name: 'cover', maxLen: 2 },
];
const pipeline = textPipeline({ tokenizer, fields });
const perField = textPipeline({ tokenizer, fields, positions: 'per_field' });

describe('layout of a text', () => {
  it('is cls f1 sep f2 sep f3, separators carrying the type of the field before them', () => {
    const batch = pipeline.encode({ title: 'a b', plot: 'c', cover: 'd e' });
    expect([...batch.tokens]).toEqual([2, 4, 5, 3, 6, 3, 7, 8]);
    expect([...batch.types]).toEqual([0, 0, 0, 0, 1, 1, 2, 2]);
    expect([...batch.positions]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect([...batch.offsets]).toEqual([0, 8]);
  });

  it.each([
    ['closed', { separator: true, end: true }, [2, 4, 5, 3, 6, 3], [0, 0, 0, 0, 2, 2], 3 + 2 + 2 + 4],
    ['joined', { separator: false, end: true }, [2, 4, 5, 6, 3], [0, 0, 0, 2, 2], 3 + 2 + 2 + 2],
    ['padded', { separator: false, end: true, padTo: 10 }, [2, 4, 5, 6, 3, 3, 3, 3, 3, 3], null, 10],
  ])('of a published encoder: %s', (_, layout, tokens, types, longest) => {
    const published = textPipeline({ tokenizer, fields, layout });
    const batch = published.encode({ title: 'a b', cover: 'c' });
    expect([...batch.tokens]).toEqual(tokens);
    if (types !== null) expect([...batch.types]).toEqual(types);
    expect([...batch.positions]).toEqual([...tokens.keys()]);
    expect([published.maxLength, published.positionCount]).toEqual([longest, longest]);
    expect([...published.encode({}).tokens]).toEqual([]);
    expect(published.digest).not.toBe(pipeline.digest);
    const full = published.encode({ title: 'a b c d', plot: 'a b c', cover: 'a b c' });
    expect(full.tokens.length).toBe(longest);
    expect(full.tokens.at(-1)).toBe(3);
  });

  it('of a tokenizer without a start token begins with the first word; the open layout refuses it', () => {
    const endOnly = { ...tokenizer, special: { ...tokenizer.special, cls: null } };
    const published = textPipeline({ tokenizer: endOnly, fields, layout: { separator: false, end: true } });
    expect([...published.encode({ title: 'a', plot: 'b' }).tokens]).toEqual([4, 5, 3]);
    expect(() => textPipeline({ tokenizer: endOnly, fields })).toThrow(/expected a tokenizer with a start token/);
    const layout = { separator: false, end: true, padTo: 8 };
    expect(() => textPipeline({ tokenizer, fields, layout })).toThrow(/fit into 8 tokens but received up to 9 tokens/);
    expect(() => textPipeline({ tokenizer, fields, layout, positions: 'per_field' })).toThrow(ArgumentError);
  });

  it('counts positions from 0 in each field when asked to', () => {
    const batch = perField.encode({ title: 'a b c', plot: 'd', cover: 'e' });
    expect([...batch.positions]).toEqual([0, 0, 1, 2, 3, 0, 1, 0]);
    expect(perField.positionCount).toBe(4);
  });

  it('truncates each field by itself and keeps the head', () => {
    const batch = pipeline.encode({ title: 'a b c d e', plot: 'e f g' });
    expect([...batch.tokens]).toEqual([2, 4, 5, 6, 3, 8, 9]);
    expect([...pipeline.encode({ title: 'a b c g', plot: 'e f' }).tokens]).toEqual([...batch.tokens]);
  });

  it.each([
    [{ plot: 'a', cover: 'b' }, [2, 4, 3, 5], [0, 1, 1, 2]],
    [{ title: 'a', plot: '...', cover: 'b' }, [2, 4, 3, 5], [0, 0, 0, 2]],
    [{ title: null, plot: null, cover: 'b' }, [2, 5], [0, 2]],
    [{ title: '', plot: ' ' }, [], []],
    [{}, [], []],
  ])('leaves an empty field out together with its separator: %j', (texts, tokens, types) => {
    const batch = pipeline.encode(texts);
    expect([...batch.tokens]).toEqual(tokens);
    expect([...batch.types]).toEqual(types);
  });

  it('knows its longest sequence and its digest', () => {
    expect(pipeline.maxLength).toBe(10);
    expect(pipeline.positionCount).toBe(10);
    const full = pipeline.encode({ title: 'a a a a', plot: 'a a a', cover: 'a a a' });
    expect(full.tokens.length).toBe(10);
    expect(pipeline.digest).not.toBe(perField.digest);
    expect(pipeline.digest).toBe(textPipeline({ tokenizer, fields }).digest);
  });

  it('refuses a field it does not know', () => {
    expect(() => pipeline.encode({ name: 'a' })).toThrow(/expected fields title, plot, cover but received name/);
  });
});

describe('textPipeline options', () => {
  it.each([
    [[], /at least one field/],
    [[fields[0]!, fields[0]!], /title twice/],
    [[{ name: 'x', maxLen: 0 }], /maxLen of field x to be an integer >= 1 but received 0/],
  ])('refuses %j', (bad, message) => {
    expect(() => textPipeline({ tokenizer, fields: bad })).toThrow(ArgumentError);
    expect(() => textPipeline({ tokenizer, fields: bad })).toThrow(message);
  });
});

describe('tokenizeAll', () => {
  const columns = {
    title: ['a b c d', 'zzz a', null, ''],
    plot: ['c', null, null, '!'],
    cover: [null, 'd', '', null],
  };

  it('writes all rows into shared memory, as encode does one by one', async () => {
    const { store } = await pipeline.tokenizeAll(columns);
    expect(store.tokens.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(store.offsets.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect([...store.offsets]).toEqual([0, 6, 11, 11, 11]);
    for (let row = 0; row < 4; row++) {
      const one = pipeline.encode({ title: columns.title[row]!, plot: columns.plot[row]!, cover: columns.cover[row]! });
      const [from, to] = [store.offsets[row]!, store.offsets[row + 1]!];
      expect([...store.tokens.slice(from, to)]).toEqual([...one.tokens]);
      expect([...store.types.slice(from, to)]).toEqual([...one.types]);
      expect([...store.positions.slice(from, to)]).toEqual([...one.positions]);
    }
  });

  it('counts what was truncated, unknown, empty and missing', async () => {
    const { statistics } = await pipeline.tokenizeAll(columns);
    expect(statistics.texts).toBe(4);
    expect(statistics.missing).toBe(2);
    expect(statistics.fields[0]).toEqual({
      name: 'title',
      filled: 2,
      empty: 2,
      p50: 2,
      p95: 4,
      max: 4,
      truncated: 0.5,
      unknown: 1 / 6,
      cut: 0,
    });
    expect(statistics.fields[1]).toMatchObject({ filled: 1, empty: 3, p50: 1, max: 1, truncated: 0, unknown: 0 });
  });

  it('cuts a field at 64 KiB and says so', async () => {
    const long = 'a '.repeat(MAX_FIELD_BYTES / 2 + 5);
    const { statistics } = await pipeline.tokenizeAll({ title: [long], plot: [null], cover: [null] });
    expect(statistics.fields[0]).toMatchObject({ cut: 1, max: MAX_FIELD_BYTES / 2, truncated: 1 });
  });

  it('accepts no rows', async () => {
    const { store, statistics } = await pipeline.tokenizeAll({ title: [], plot: [], cover: [] });
    expect([...store.offsets]).toEqual([0]);
    expect(statistics.fields[0]).toMatchObject({ filled: 0, p50: 0, max: 0, truncated: 0, unknown: 0 });
  });

  it('gives the event loop a turn, reports progress and stops when aborted', async () => {
    const rows = 20_000;
    const many = {
      title: new Array<string>(rows).fill('a b c d e f g'),
      plot: new Array<string>(rows).fill('a'),
      cover: new Array<null>(rows).fill(null),
    };
    let turns = 0;
    let running = true;
    const turn = (): void => {
      turns++;
      if (running) setImmediate(turn);
    };
    setImmediate(turn);
    const seen: number[] = [];
    await pipeline.tokenizeAll(many, { onProgress: (done) => seen.push(done) });
    running = false;
    expect(turns).toBeGreaterThan(2);
    expect(seen.at(-1)).toBe(rows);
    await expect(pipeline.tokenizeAll(many, { signal: AbortSignal.abort(new Error('stop')) })).rejects.toThrow('stop');
  });

  it('refuses absent and ragged columns', async () => {
    await expect(pipeline.tokenizeAll({ title: [], plot: [] })).rejects.toThrow(DataError);
    await expect(pipeline.tokenizeAll({ title: [], plot: [] })).rejects.toThrow(/column of text field cover/);
    await expect(pipeline.tokenizeAll({ title: ['a'], plot: ['a'], cover: [] })).rejects.toThrow(
      /expected 1 texts in field cover as in title but received 0/,
    );
  });
});

describe('cutToBytes', () => {
  it.each([
    ['abcd', 3, 'abc'],
    ['abc', 3, 'abc'],
    ['é'.repeat(3), 5, 'éé'],
    ['a🎉b', 4, 'a'],
    ['a🎉b', 5, 'a🎉'],
    ['東京', 2, ''],
  ])('%j to %i bytes', (text, bytes, cut) => {
    expect(cutToBytes(text, bytes)).toBe(cut);
  });
});
