import { describe, expect, it } from 'vitest';
import { BankRecord } from '../../src/nn/bank_record.js';
import { Initializer } from '../../src/nn/module.js';
import { valuesOf } from '../values.js';

describe('BankRecord', () => {
  it('counts on accepted writes two steps later, however early their outcome came', () => {
    using record = new BankRecord(new Initializer(1), 4);
    record.stage(1, Int32Array.of(0, 2, 2));
    expect(record.lastWrite(0, 3)).toBe(-1); // not settled yet
    record.settle(1, true);
    expect([1, 2, 3, 4].map((step) => record.lastWrite(2, step))).toEqual([-1, -1, 1, 1]);
    record.stage(2, Int32Array.of(2, 3));
    record.settle(2, true);
    expect([3, 4].map((step) => record.lastWrite(2, step))).toEqual([1, 2]);
    expect([0, 1, 2, 3].map((item) => record.holds(item))).toEqual([true, false, true, true]);
  });

  it('forgets what a skipped step staged', () => {
    using record = new BankRecord(new Initializer(1), 2);
    record.stage(1, Int32Array.of(0));
    record.settle(1, false);
    record.settle(1, true);
    expect(record.holds(0)).toBe(false);
  });

  it('goes on from what it saved', async () => {
    using record = new BankRecord(new Initializer(1), 3);
    for (const step of [1, 2, 3]) {
      record.stage(step, Int32Array.of(0, step % 3));
      record.settle(step, true);
    }
    using other = new BankRecord(new Initializer(1), 3);
    const saved = record.state();
    const [last, before] = await Promise.all(['last', 'before'].map(async (name) => valuesOf(saved.get(name)!)));
    expect([[...last!], [...before!]]).toEqual([
      [3, 1, 2],
      [2, -1, -1],
    ]);
    other.restore(Int32Array.from(last!), Int32Array.from(before!));
    for (const item of [0, 1, 2])
      for (const step of [4, 5]) expect(other.lastWrite(item, step)).toBe(record.lastWrite(item, step));
  });
});
