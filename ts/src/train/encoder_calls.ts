/** How often item encoders ran, and how often they would have. */
import type { Batch } from '../data/loader/batch.js';
import type { StepGraph } from '../models/model.js';

/** What training asked of the item encoders, summed over the batches of steps that encode. */
export interface EncoderCalls {
  /** Rows of the batches. */
  readonly rows: number;
  /** Rows and history items: what would be encoded if each were by itself. */
  readonly slots: number;
  /** Different items among those of a batch: what is left when each is encoded once. */
  readonly distinct: number;
  /** Items encoded, and how many of them with gradient. */
  readonly items: number;
  readonly live: number;
}

export const noCalls: EncoderCalls = { rows: 0, slots: 0, distinct: 0, items: 0, live: 0 };

/** Adds the calls of one step to a sum. `items`: rows of the item table. */
export function callCounter(
  items: number,
): (sum: EncoderCalls, batch: Batch, encoded: StepGraph['encoded']) => EncoderCalls {
  const seenAt = new Int32Array(items); // the last batch that had an item
  let batches = 0;
  return (sum, batch, encoded) => {
    const clicks = batch.history?.values ?? new Int32Array(0);
    const shown = batch.items.rows;
    batches++;
    let distinct = 0;
    for (const list of [shown, clicks])
      for (let i = 0; i < list.length; i++) {
        if (seenAt[list[i]!] === batches) continue;
        seenAt[list[i]!] = batches;
        distinct++;
      }
    const { items: ran, live } = encoded ?? { items: shown.length, live: shown.length };
    return {
      rows: sum.rows + batch.size,
      slots: sum.slots + batch.size + clicks.length,
      distinct: sum.distinct + distinct,
      items: sum.items + ran,
      live: sum.live + live,
    };
  };
}
