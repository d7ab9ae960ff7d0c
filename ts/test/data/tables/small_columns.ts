/** Columns of a small made-up data set: sessions of different sizes, texts, pictures, queries, histories. */

import { type Events, groupRows } from '../../../src/data/events.js';
import { buildHistories } from '../../../src/data/history.js';
import { emptyImageStore } from '../../../src/data/images/image_store.js';
import type { BatchColumns } from '../../../src/data/loader/batch_source.js';
import { type NegativeOptions, negativeTable } from '../../../src/data/loader/negatives.js';
import { sharedInt32, type TokenStore } from '../../../src/data/text/token_store.js';

export interface SmallOptions {
  readonly events?: number;
  readonly users?: number;
  readonly items?: number;
  readonly negatives?: NegativeOptions;
  readonly pictureSize?: number;
}

function ints(length: number, value: (i: number) => number): Int32Array {
  const out = sharedInt32(length);
  for (let i = 0; i < length; i++) out[i] = value(i);
  return out;
}

/** Text row r holds r % 4 tokens (so row 0 is missing): 100 r, 100 r + 1, ... */
function texts(rows: number): TokenStore {
  const offsets = sharedInt32(rows + 1);
  for (let r = 0; r < rows; r++) offsets[r + 1] = offsets[r]! + (r % 4);
  const tokens = sharedInt32(offsets[rows]!);
  const positions = sharedInt32(offsets[rows]!);
  for (let r = 0; r < rows; r++) {
    for (let at = offsets[r]!; at < offsets[r + 1]!; at++) {
      positions[at] = at - offsets[r]!;
      tokens[at] = 100 * r + positions[at]!;
    }
  }
  return { tokens, types: sharedInt32(offsets[rows]!), positions, offsets };
}

/** Events 0 .. 0.8 n are train, then valid, then test; event i belongs to user i % users and item 7 i % items. */
export function smallColumns({
  events: n = 200,
  users = 9,
  items = 20,
  negatives,
  pictureSize = 2,
}: SmallOptions = {}): BatchColumns {
  const events: Events = {
    count: n,
    users,
    items,
    user: ints(n, (i) => i % users),
    item: ints(n, (i) => (7 * i + (i >> 3)) % items),
    time: ints(n, (i) => i >> 1),
    times: Float64Array.from({ length: (n >> 1) + 1 }, (_, i) => i),
  };
  const part = Uint8Array.from({ length: n }, (_, i) => (i < 0.8 * n ? 0 : i < 0.9 * n ? 1 : 2));
  const click = new Float32Array(n).map((_, i) => (i % 3 === 0 ? 1 : 0));
  const positive = Uint8Array.from(click);
  // Sessions of 1, 2, 3, 1, 2, 3, ... events.
  const session = ints(n, (i) => Math.floor(i / 6) * 3 + (i % 6 === 0 ? 0 : i % 6 < 3 ? 1 : 2));
  const rowsOf = (code: number): Int32Array => Int32Array.from([...part.keys()].filter((row) => part[row] === code));
  const train = rowsOf(0);
  const image = emptyImageStore(items, pictureSize);
  for (let i = 0; i < items; i++) {
    image.present[i] = i % 5 === 0 ? 0 : 1;
    image.pixels.fill(image.present[i]! * i, i * pictureSize ** 2 * 3, (i + 1) * pictureSize ** 2 * 3);
  }
  return {
    user: events.user,
    item: events.item,
    time: events.time,
    times: null,
    session,
    query: ints(n, (i) => session[i]! % 5),
    items,
    labels: [
      { name: 'click', values: click },
      { name: 'buy', values: click.map((value, i) => (i % 2 === 0 ? value : 0)) },
    ],
    categorical: [
      { name: 'user_id', source: 'user', rows: ints(users, (i) => i + 1) },
      { name: 'item_id', source: 'item', rows: ints(items, (i) => i + 1) },
      { name: 'slot', source: 'inter', rows: ints(n, (i) => i % 6) },
      { name: 'query_id', source: 'query', rows: ints(5, (i) => i + 1) },
    ],
    numeric: [{ name: 'price', source: 'item', values: Float32Array.from({ length: items }, (_, i) => i / 10) }],
    sequences: [
      {
        name: 'genres',
        source: 'item',
        values: ints(items, (i) => i),
        offsets: ints(items + 1, (i) => Math.floor(i / 2) * 2),
      },
    ],
    idHistories: [{ name: 'history', rows: ints(items, (i) => i + 1), maxLen: 3 }],
    histories: buildHistories(events, part, { parts: 'past', where: positive }),
    historyLen: 5,
    itemText: texts(items),
    itemImage: image,
    queryText: texts(5),
    parts: {
      train: negatives === undefined ? train : train.filter((row) => positive[row] === 1),
      valid: rowsOf(1),
      test: rowsOf(2),
    },
    sessions: groupRows(session.subarray(0, train.length), session[train.length - 1]! + 1),
    negatives: negatives === undefined ? null : negativeTable(events, part, positive, negatives),
  };
}
