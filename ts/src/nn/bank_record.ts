/**
 * What the host knows of a memory bank without asking the device: when each item was last written. Which items a step must encode follows
 * from it, so nothing is read back inside a step.
 *
 * The outcome of a step is known late, while the next one is under way. To make the choice a function of the data alone, and a resumed run
 * equal to an uninterrupted one, step t counts on the writes that were accepted up to step t - 2, however early their outcome came.
 */
import type { HostArray, Tensor } from '../tensor.js';
import { assign } from '../tensor.js';
import { type Initializer, Module } from './module.js';

/** A step whose outcome nobody reports is forgotten after so many others: its items count as not written. */
const longestWait = 16;

export class BankRecord extends Module {
  /** (items) int32 each: step of the last accepted write, and of the one before it; -1 = never. What a checkpoint holds. */
  readonly last: Tensor;
  readonly before: Tensor;
  readonly #last: Int32Array;
  readonly #before: Int32Array;
  readonly #open = new Map<number, Int32Array>();
  /** Whether the arrays are newer than the tensors. */
  #changed = false;

  constructor(init: Initializer, items: number) {
    super();
    this.last = init.integers('last', [items], -1);
    this.before = init.integers('before', [items], -1);
    this.#last = new Int32Array(items).fill(-1);
    this.#before = new Int32Array(items).fill(-1);
  }

  /** Items (n) that `step` wants to write; one may come twice. */
  stage(step: number, items: Int32Array): void {
    for (const open of this.#open.keys()) if (open < step - longestWait) this.#open.delete(open);
    this.#open.set(step, items);
  }

  /** What became of `step`. */
  settle(step: number, accepted: boolean): void {
    const items = this.#open.get(step);
    this.#open.delete(step);
    if (!accepted || items === undefined) return;
    for (const item of items) {
      if (this.#last[item] === step) continue;
      this.#before[item] = this.#last[item]!;
      this.#last[item] = step;
    }
    this.#changed = true;
  }

  /** Step of the last write of `item` that `step` may count on; -1 if there is none. */
  lastWrite(item: number, step: number): number {
    const last = this.#last[item]!;
    return last <= step - 2 ? last : this.#before[item]!;
  }

  /** Whether the bank holds `item` as far as outcomes are known. */
  holds(item: number): boolean {
    return this.#last[item]! >= 0;
  }

  /** After a load: the saved values of `last` and `before`. Steps under way are forgotten. */
  restore(last: HostArray, before: HostArray): void {
    this.#last.set(Int32Array.from(last as Int32Array));
    this.#before.set(Int32Array.from(before as Int32Array));
    this.#open.clear();
    this.#changed = false;
  }

  override state(): Map<string, Tensor> {
    if (this.#changed) {
      this.#changed = false;
      assign(this.last, this.#last.slice());
      assign(this.before, this.#before.slice());
    }
    return super.state();
  }
}
