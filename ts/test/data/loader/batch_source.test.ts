import { describe, expect, it } from 'vitest';
import type { Batch } from '../../../src/data/loader/batch.js';
import {
  type BatchColumns,
  BatchSource,
  batchBuffers,
  type PassOptions,
} from '../../../src/data/loader/batch_source.js';
import { ArgumentError } from '../../../src/errors.js';
import { smallColumns } from '../tables/small_columns.js';

const train: PassOptions = { part: 'train', epoch: 0, batchSize: 16, seed: 7 };

function batches(columns: BatchColumns, options: PassOptions): Batch[] {
  const source = new BatchSource(columns, options);
  const out: Batch[] = [];
  for (let batch = source.next(); batch !== null; batch = source.next()) out.push(batch);
  return out;
}

const eventsOf = (list: readonly Batch[]): number[] => list.flatMap((batch) => [...batch.events]);

describe('BatchSource', () => {
  const columns = smallColumns();

  it('gives every train event once per epoch, in an order of (seed, epoch)', () => {
    const first = batches(columns, train);
    expect(first.map((batch) => [batch.position, batch.size])).toEqual(
      Array.from({ length: 10 }, (_, i) => [16 * i, 16]),
    );
    expect(eventsOf(first).toSorted((a, b) => a - b)).toEqual([...columns.parts.train]);
    expect(eventsOf(batches(columns, train))).toEqual(eventsOf(first));
    expect(eventsOf(batches(columns, { ...train, epoch: 1 }))).not.toEqual(eventsOf(first));
    expect(eventsOf(batches(columns, { ...train, seed: 8 }))).not.toEqual(eventsOf(first));
  });

  it('keeps a last batch that is not full, or leaves it out', () => {
    expect(batches(columns, { ...train, batchSize: 50 }).map((batch) => batch.size)).toEqual([50, 50, 50, 10]);
    expect(batches(columns, { ...train, batchSize: 50, dropLast: true }).map((batch) => batch.size)).toEqual([
      50, 50, 50,
    ]);
  });

  it('evaluates in natural order', () => {
    expect(eventsOf(batches(columns, { ...train, part: 'test', batchSize: 7 }))).toEqual([...columns.parts.test]);
  });

  it('joins what belongs to a row', () => {
    for (const batch of [...batches(columns, train), ...batches(columns, { ...train, part: 'valid' })]) {
      const { rows, index, text, image } = batch.items;
      expect([...rows]).toEqual([...new Set(rows)].toSorted((a, b) => a - b));
      for (let b = 0; b < batch.size; b++) {
        const event = batch.events[b]!;
        const item = columns.item[event]!;
        const session = columns.session![event]!;
        expect(rows[index[b]!]).toBe(item);
        expect(batch.user[b]).toBe(columns.user[event]);
        expect(batch.session[b]).toBe(session);
        expect(batch.labels.click![b]).toBe(columns.labels[0]!.values[event]);
        expect(batch.labels.buy![b]).toBe(columns.labels[1]!.values[event]);
        expect(batch.categorical.user_id![b]).toBe(columns.user[event]! + 1);
        expect(batch.categorical.item_id![b]).toBe(item + 1);
        expect(batch.categorical.slot![b]).toBe(event % 6);
        expect(batch.categorical.query_id![b]).toBe((session % 5) + 1);
        expect(batch.numeric.price![b]).toBeCloseTo(item / 10, 6);
        const genres = batch.sequences.genres!;
        const own = item % 2 === 1 ? [item - 1, item] : [];
        expect([...genres.values.subarray(genres.offsets[b], genres.offsets[b + 1])]).toEqual(own);
        expect(batch.queries!.rows[batch.queries!.index[b]!]).toBe(session % 5);
      }
      rows.forEach((item, u) => {
        expect([...text!.tokens.subarray(text!.offsets[u], text!.offsets[u + 1])]).toEqual(
          Array.from({ length: item % 4 }, (_, position) => 100 * item + position),
        );
        expect(image!.present[u]).toBe(item % 5 === 0 ? 0 : 1);
        expect(
          image!.pixels.subarray(12 * u, 12 * u + 12).every((value) => value === (item % 5 === 0 ? 0 : item)),
        ).toBe(true);
      });
    }
  });

  it('gathers histories: earlier positives of the user, oldest first, the last so many', () => {
    for (const batch of batches(columns, { ...train, part: 'test' })) {
      for (let b = 0; b < batch.size; b++) {
        const event = batch.events[b]!;
        const earlier = [...columns.user.keys()].filter(
          (row) =>
            columns.user[row] === columns.user[event] &&
            columns.time[row]! < columns.time[event]! &&
            columns.labels[0]!.values[row] === 1,
        );
        const items = earlier.map((row) => columns.item[row]!);
        const { values, offsets } = batch.history!;
        expect([...values.subarray(offsets[b], offsets[b + 1])]).toEqual(items.slice(-5));
        const ids = batch.sequences.history!;
        expect([...ids.values.subarray(ids.offsets[b], ids.offsets[b + 1])]).toEqual(
          items.slice(-3).map((item) => item + 1),
        );
      }
    }
  });

  it.each([null, Float64Array.from({ length: 101 }, (_, rank) => 60 * rank ** 2)])(
    'tells how long before the target each event of a history was, in times of the data or in rows',
    (times) => {
      const clock = (row: number): number => times?.[columns.time[row]!] ?? columns.time[row]!;
      for (const batch of batches({ ...columns, times }, { ...train, part: 'test' })) {
        for (let b = 0; b < batch.size; b++) {
          const event = batch.events[b]!;
          const earlier = [...columns.user.keys()].filter(
            (row) =>
              columns.user[row] === columns.user[event] &&
              columns.time[row]! < columns.time[event]! &&
              columns.labels[0]!.values[row] === 1,
          );
          const gaps = earlier.map((row) => clock(event) - clock(row));
          for (const [history, length] of [
            [batch.history!, 5],
            [batch.sequences.history!, 3],
          ] as const)
            expect([...history.gaps!.subarray(history.offsets[b], history.offsets[b + 1])]).toEqual(
              gaps.slice(-length),
            );
        }
      }
    },
  );

  it('keeps sessions together with unit session', () => {
    const list = batches(columns, { ...train, unit: 'session', batchSize: 8 });
    expect(eventsOf(list).toSorted((a, b) => a - b)).toEqual([...columns.parts.train]);
    const met = new Set<number>();
    for (const batch of list) {
      const sessions = new Set(batch.session);
      expect(sessions.size).toBeLessThanOrEqual(8);
      for (const session of sessions) {
        expect(met.has(session)).toBe(false);
        met.add(session);
      }
    }
    expect(list[1]!.position).toBe(list[0]!.size);
  });

  it.each([1, 2, 3, 4])(
    'F55: gives slices of the global batch to %i ranks: together they are the batch of one',
    (world) => {
      const sampled = smallColumns({ users: 100, negatives: { kind: 'uniform', n: 2 } });
      for (const [data, unit, batchSize] of [
        [columns, 'row', 16],
        [columns, 'row', 3], // fewer rows than ranks
        [columns, 'session', 5],
        [sampled, 'row', 7],
      ] as const) {
        const options = { ...train, unit, batchSize };
        const whole = batches(data, options);
        const ranks = Array.from({ length: world }, (_, rank) => batches(data, { ...options, rank, world }));
        for (const list of ranks) {
          expect(list.map(({ position, end }) => [position, end])).toEqual(
            whole.map(({ position, end }) => [position, end]),
          );
          if (batchSize >= world) expect(Math.min(...list.slice(0, -1).map((batch) => batch.size))).toBeGreaterThan(0);
        }
        whole.forEach((batch, k) => {
          const parts = ranks.map((list) => list[k]!);
          const joined = (pick: (batch: Batch) => Iterable<number>): number[] =>
            parts.flatMap((part) => [...pick(part)]);
          for (const pick of [
            (b: Batch) => b.events,
            (b: Batch) => b.user,
            (b: Batch) => b.session,
            (b: Batch) => b.labels.click!,
            (b: Batch) => b.categorical.item_id!,
            (b: Batch) => b.numeric.price!,
            (b: Batch) => b.history!.values,
            (b: Batch) => b.history!.gaps!,
            (b: Batch) => b.sequences.history!.values,
            (b: Batch) => [...b.items.index].map((item) => b.items.rows[item]!),
            (b: Batch) => [...b.queries!.index].map((query) => b.queries!.rows[query]!),
          ])
            expect(joined(pick)).toEqual([...pick(batch)]);
          expect(new Set(joined((b) => b.items.rows))).toEqual(new Set(batch.items.rows));
        });
      }
    },
  );

  it('refuses ranks outside the world', () => {
    for (const [rank, world] of [
      [-1, 2],
      [2, 2],
      [0, 0],
      [0.5, 2],
    ])
      expect(() => new BatchSource(columns, { ...train, rank, world })).toThrow(/expected rank in \[0, world\)/);
  });

  it('passes over batches that others make', () => {
    for (const unit of ['row', 'session'] as const) {
      const whole = batches(columns, { ...train, unit, batchSize: 9 });
      const source = new BatchSource(columns, { ...train, unit, batchSize: 9 });
      source.skip(2);
      expect(source.next()).toEqual(whole[2]);
      source.skip(whole.length - 4);
      expect(source.next()).toEqual(whole.at(-1));
      source.skip(3);
      expect(source.next()).toBeNull();
    }
  });

  it('F27: its cursor counts samples, not the negatives drawn for them', () => {
    const sampled = smallColumns({ users: 100, negatives: { kind: 'uniform', n: 2 } });
    const whole = batches(sampled, { ...train, batchSize: 7 });
    whole.forEach((batch, k) => {
      expect(batch.end - batch.position).toBe(batch.size / 3);
      expect(batches(sampled, { ...train, batchSize: 7, position: batch.end })).toEqual(whole.slice(k + 1));
    });
  });

  it.each(['row', 'session'] as const)('F27: resumes at any batch boundary with the same batches (%s)', (unit) => {
    const whole = batches(columns, { ...train, unit });
    for (const [k, batch] of whole.entries()) {
      expect(batches(columns, { ...train, unit, position: batch.position })).toEqual(whole.slice(k));
    }
  });

  it('adds sampled negatives behind their positive', () => {
    const sampled = smallColumns({ users: 100, negatives: { kind: 'popularity', n: 3 } });
    const list = batches(sampled, train);
    expect(list.map((batch) => [batch.position, batch.size])).toEqual([
      [0, 64],
      [16, 64],
      [32, 64],
      [48, 24],
    ]);
    for (const batch of list) {
      for (let b = 0; b < batch.size; b++) {
        const head = b - (b % 4);
        expect(batch.events[b]).toBe(batch.events[head]);
        expect(batch.labels.click![b]).toBe(b === head ? 1 : 0);
        if (b !== head)
          expect(batch.items.rows[batch.items.index[b]!]).not.toBe(batch.items.rows[batch.items.index[head]!]);
      }
    }
    // Where sampling starts does not matter: a draw belongs to its sample.
    expect(batches(sampled, { ...train, position: 16 })).toEqual(list.slice(1));
    expect(batches(sampled, { ...train, part: 'valid' }).every((batch) => batch.size <= 16)).toBe(true);
  });

  it('owns the memory of its batches: every array can be handed over', () => {
    const [batch] = batches(columns, train);
    const buffers = batchBuffers(batch!);
    expect(buffers.length).toBeGreaterThan(20);
    structuredClone(batch, { transfer: buffers });
    expect(batch!.events.length).toBe(0);
  });

  it.each<[string, Partial<PassOptions>, RegExp]>([
    ['batch size', { batchSize: 0 }, /batchSize of at least 1/],
    ['position', { position: 161 }, /position in \[0, 160\]/],
    ['session part', { unit: 'session', part: 'valid' }, /only train is batched by session/],
  ])('refuses a wrong %s', (_, change, says) => {
    expect(() => new BatchSource(columns, { ...train, ...change })).toThrow(says);
  });

  it('refuses sessions where there are none and positions inside a session', () => {
    const none = { ...columns, sessions: null };
    expect(() => new BatchSource(none, { ...train, unit: 'session' })).toThrow(/expected a session column/);
    const [first] = batches(columns, { ...train, unit: 'session', batchSize: 1 }).filter((batch) => batch.size > 1);
    const inside = { ...train, unit: 'session', position: first!.position + 1 } as const;
    expect(() => new BatchSource(columns, inside)).toThrow(ArgumentError);
  });
});
