import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import type { Batch } from '../../../src/data/loader/batch.js';
import { maxBatchBytes } from '../../../src/data/loader/batch_bytes.js';
import { BatchSource, type PassOptions } from '../../../src/data/loader/batch_source.js';
import { BatchMaker, type BatchMakerOptions, Loader } from '../../../src/data/loader/loader.js';
import { ArgumentError } from '../../../src/errors.js';
import { smallColumns } from '../tables/small_columns.js';
import { buildWorker } from './worker_build.js';

const pass: PassOptions = { part: 'train', epoch: 2, batchSize: 16, seed: 7 };
const built = buildWorker();
afterAll(() => built.remove());

async function collect(loader: AsyncIterable<Batch>): Promise<Batch[]> {
  const out: Batch[] = [];
  for await (const batch of loader) out.push(batch);
  return out;
}

function expected(columns = smallColumns(), options = pass): Batch[] {
  const source = new BatchSource(columns, options);
  const out: Batch[] = [];
  for (let batch = source.next(); batch !== null; batch = source.next()) out.push(batch);
  return out;
}

describe.each<[string, BatchMakerOptions]>([
  ['in a worker thread', { workers: 1, workerUrl: built.url }],
  ['in three worker threads', { workers: 3, workerUrl: built.url }],
  ['on the calling thread', { workers: 0 }],
])('Loader %s', (_, options) => {
  it('gives the batches of the source, in order, any number of times', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    expect(maker.workers).toBe(options.workers);
    const loader = new Loader(maker, pass);
    expect(loader.samples).toBe(160);
    expect(await collect(loader)).toEqual(expected());
    expect(await collect(loader)).toEqual(expected());
    expect(loader.waitSeconds).toBeGreaterThan(0);
  });

  it('F27: resumes at a position with the remaining batches', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    expect(await collect(new Loader(maker, { ...pass, position: 64 }))).toEqual(expected().slice(4));
  });

  it.each(['row', 'session'] as const)(
    'gives the batches of every rank, which together are those of one process (%s)',
    async (unit) => {
      await using maker = new BatchMaker(smallColumns(), options);
      const ranks = [0, 1, 2].map((rank) => new Loader(maker, { ...pass, unit, batchSize: 7, rank, world: 3 }));
      const parts = await Promise.all(ranks.map(collect));
      const whole = expected(undefined, { ...pass, unit, batchSize: 7 });
      expect(parts.map((list) => list.length)).toEqual(ranks.map(() => whole.length));
      whole.forEach((batch, k) => {
        expect(parts.flatMap((list) => [...list[k]!.events])).toEqual([...batch.events]);
        for (const list of parts) expect([list[k]!.position, list[k]!.end]).toEqual([batch.position, batch.end]);
      });
    },
  );

  it('makes later batches in memory that was given back, to the same bytes', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    const loader = new Loader(maker, { ...pass, prefetch: 1 });
    const got: Batch[] = [];
    for await (const batch of loader) {
      got.push(structuredClone(batch));
      loader.recycle(batch);
      expect([batch.events.length, batch.items.image!.pixels.length]).toEqual([0, 0]);
      loader.recycle(batch); // nothing left to give
    }
    expect(got).toEqual(expected());
  });

  it('keeps what waits below its cap of bytes', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    const each = maxBatchBytes(maker.columns, pass);
    const largest = Math.max(...expected().map(bytesOf));
    expect(each).toBeGreaterThanOrEqual(largest);
    expect(each).toBeLessThan(4 * largest);
    const open = (prefetchBytes: number) => new Loader(maker, { ...pass, prefetch: 4, prefetchBytes });
    expect([1, each, 2 * each, 3 * each - 1, 100 * each].map((bytes) => open(bytes).ahead)).toEqual([1, 1, 2, 2, 4]);
    expect(open(2 * each).aheadBytes).toBe(2 * each);
    expect(await collect(open(1))).toEqual(expected());
    expect(() => open(0)).toThrow(/prefetchBytes of at least 1/);
  });

  it('serves two passes at the same time', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    const valid = { ...pass, part: 'valid' } as const;
    const [a, b] = await Promise.all([collect(new Loader(maker, pass)), collect(new Loader(maker, valid))]);
    expect(a).toEqual(expected());
    expect(b).toEqual(expected(undefined, valid));
  });

  it('lets a consumer leave early', async () => {
    await using maker = new BatchMaker(smallColumns(), options);
    for await (const batch of new Loader(maker, pass)) if (batch.position === 32) break;
    expect(await collect(new Loader(maker, pass))).toEqual(expected());
  });

  it('counts negatives that had to take the next free item', async () => {
    const columns = smallColumns({ users: 100, negatives: { kind: 'uniform', n: 2 } });
    await using maker = new BatchMaker(columns, options);
    const loader = new Loader(maker, pass);
    expect(await collect(loader)).toEqual(expected(columns));
    expect(loader.negativeFallbacks).toBe(0);
  });

  it('F43: delivers an error after all batches before it, and stays usable', async () => {
    const columns = smallColumns();
    // Item rows from 15 on have no text: the first batch with such an item fails.
    const broken = { ...columns, itemText: { ...columns.itemText!, offsets: columns.itemText!.offsets.slice(0, 16) } };
    await using maker = new BatchMaker(broken, options);
    const got: Batch[] = [];
    const run = async (): Promise<void> => {
      for await (const batch of new Loader(maker, { ...pass, batchSize: 2 })) got.push(batch);
    };
    await expect(run()).rejects.toThrow(ArgumentError);
    const all = expected(columns, { ...pass, batchSize: 2 });
    const firstBad = all.findIndex((batch) => batch.items.rows.some((row) => row >= 15));
    expect(got).toEqual(all.slice(0, firstBad));
    expect(firstBad).toBeGreaterThan(0);
    await expect(run()).rejects.toThrow(/expected rows\[\d\] in \[0, 15\)/);
  });

  it('makes no more than prefetch batches ahead of a slow consumer', async () => {
    const columns = smallColumns();
    await using maker = new BatchMaker(columns, options);
    const loader = new Loader(maker, { ...pass, prefetch: 1 });
    expect(loader.ahead).toBe(Math.max(1, maker.workers));
    const iterator = loader[Symbol.asyncIterator]();
    const first = await iterator.next();
    expect(first.value).toEqual(expected()[0]);
    await setTimeout(50);
    // Memory is shared: what is made after this line shows the change. The batches ahead may have been made before.
    const before = columns.user[0]!;
    columns.user.fill(1);
    for (let k = 1; k <= loader.ahead; k++) expect((await iterator.next()).done).toBe(false);
    const later = (await iterator.next()).value as Batch;
    expect([...later.user].every((user) => user === 1)).toBe(true);
    expect(before).toBe(0);
    await iterator.return();
  });

  it('refuses passes after disposal and wrong options at once', async () => {
    const maker = new BatchMaker(smallColumns(), options);
    expect(() => new Loader(maker, { ...pass, prefetch: 0 })).toThrow(/prefetch of at least 1/);
    expect(() => new Loader(maker, { ...pass, position: 1000 })).toThrow(/position/);
    const loader = new Loader(maker, pass);
    const iterator = loader[Symbol.asyncIterator]();
    await iterator.next();
    await maker[Symbol.asyncDispose]();
    await iterator.return();
    await expect(collect(loader)).rejects.toThrow(/disposed/);
  });
});

function bytesOf(batch: Batch): number {
  const sizes = (value: unknown): number => {
    if (ArrayBuffer.isView(value)) return value.byteLength;
    return typeof value === 'object' && value !== null
      ? Object.values(value).reduce((sum: number, part: unknown) => sum + sizes(part), 0)
      : 0;
  };
  return sizes(batch);
}

describe('BatchMaker', () => {
  it('gives the same bytes with any number of workers, wherever a pass begins', async () => {
    for (const unit of ['row', 'session'] as const) {
      const options = {
        ...pass,
        unit,
        batchSize: 5,
        position: expected(undefined, { ...pass, unit, batchSize: 5 })[3]!.position,
      };
      const all: Batch[][] = [];
      for (const workers of [0, 1, 2, 4]) {
        await using maker = new BatchMaker(smallColumns({ negatives: { kind: 'uniform', n: 2 }, users: 100 }), {
          workers: 0,
        });
        await using threaded = new BatchMaker(unit === 'row' ? maker.columns : smallColumns(), {
          workers,
          workerUrl: built.url,
        });
        const rowOptions = unit === 'row' ? { ...options, position: 15 } : options;
        all.push(await collect(new Loader(threaded, rowOptions)));
      }
      expect(all[0]!.length).toBeGreaterThan(5);
      for (const other of all.slice(1)) expect(other).toEqual(all[0]);
    }
  });

  it.each([1, 2])('closing drains within one batch per thread: %i', async (workers) => {
    const columns = smallColumns({ events: 60_000, users: 1000, items: 5000, pictureSize: 64 });
    await using maker = new BatchMaker(columns, { workers, workerUrl: built.url });
    const open = maker.open({ ...pass, batchSize: 4000 });
    const asked = Array.from({ length: 10 }, () => open.next());
    await asked[0];
    open.close();
    const made = (await Promise.all(asked.slice(1))).filter((batch) => batch !== null).length;
    // What was made before the close arrives, and each thread ends the batch that it is at.
    expect(made).toBeLessThanOrEqual(2 * workers);
  });

  it('refuses a number of workers that is none', () => {
    for (const workers of [-1, 0.5, Number.NaN])
      expect(() => new BatchMaker(smallColumns(), { workers })).toThrow(/workers of at least 0/);
  });

  it('F43: rejects what waits when its thread fails', async () => {
    const file = join(tmpdir(), `galago-bad-worker-${process.pid}.mjs`);
    writeFileSync(file, "throw new Error('no memory left')");
    await using maker = new BatchMaker(smallColumns(), { workerUrl: pathToFileURL(file) });
    await expect(collect(new Loader(maker, pass))).rejects.toThrow(/its thread failed: Error: no memory left/);
    await expect(collect(new Loader(maker, pass))).rejects.toMatchObject({ code: 'LOADER' });
    rmSync(file);
  });

  it('does not keep a process alive that has forgotten it', () => {
    const script = `
      const { BatchMaker, Loader } = await import(${JSON.stringify(new URL('./loader.js', built.url).href)});
      const ints = () => new Int32Array(1);
      const columns = { user: ints(), item: ints(), time: ints(), session: null, query: null, items: 1, labels: [], categorical: [], numeric: [],
        sequences: [], idHistories: [], histories: null, historyLen: 0, itemText: null, itemImage: null, queryText: null,
        parts: { train: ints(), valid: ints(), test: ints() }, sessions: null, negatives: null };
      const maker = new BatchMaker(columns);
      for await (const batch of new Loader(maker, { part: 'train', epoch: 0, batchSize: 1, seed: 0 })) console.log(maker.workers, batch.size);`;
    const { stderr, stdout, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 20_000,
    });
    expect([stderr.toString(), stdout.toString(), status]).toEqual(['', '1 1\n', 0]);
  });

  it('works on the calling thread where no compiled worker lies', async () => {
    await using maker = new BatchMaker(smallColumns(), { workerUrl: new URL('file:///nowhere/loader_worker.js') });
    expect(maker.workers).toBe(0);
    expect((await collect(new Loader(maker, pass))).length).toBe(10);
  });

  it('assembles 768 rows with 400 items in few milliseconds', () => {
    const columns = smallColumns({ events: 60_000, users: 1000, items: 400, pictureSize: 32 });
    const source = new BatchSource(columns, { ...pass, batchSize: 768 });
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 40; i++) {
      const start = performance.now();
      expect(source.next()!.items.rows.length).toBeGreaterThan(330);
      best = Math.min(best, performance.now() - start);
    }
    console.log(`batch of 768 rows: ${best.toFixed(2)} ms`);
    expect(best).toBeLessThan(50); // no timing test: only far from quadratic. The number is printed.
  });
});
