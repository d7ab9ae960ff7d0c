/**
 * MMRec data: one `.inter` whose column `x_label` says the part of every row, item ids that are row numbers of `.npy` files beside it
 * (`image_feat.npy`, `text_feat.npy`). Header cells need no types. Rules: data.md, section 1.
 */
import { join } from 'node:path';
import { DataError } from '../../errors.js';
import type { SpecOf } from '../features.js';
import { inTurns, type Pass, slices } from '../turns.js';
import { type AtomicOptions, type AtomicType, readAtomicFile, readAtomicHeader } from './atomic.js';
import type { Table } from './table.js';
import type { VectorFile } from './vectors.js';

/** The column that says the part: 0 train, 1 valid, 2 test. */
export const PART_COLUMN = 'x_label';

/** Feature files that MMRec data bring, by the name their feature gets where none is asked for. */
const MMREC_VECTORS = { image: 'image_feat.npy', text: 'text_feat.npy' } as const;

/** The vectors that a folder of these files brings. */
export function mmrecVectors(files: readonly string[]): SpecOf<'embedding'>[] {
  return Object.entries(MMREC_VECTORS)
    .filter(([, file]) => files.includes(file))
    .map(([name, file]) => ({ name, type: 'embedding', file }));
}

export interface MmrecData {
  readonly inter: Table;
  /** The items 0 .. n-1, n the rows of the vectors, or without vectors the largest id + 1. */
  readonly item: Table;
  /** (rows) 0 train, 1 valid, 2 test. */
  readonly part: Uint8Array;
}

export interface MmrecOptions
  extends Pick<AtomicOptions, 'fieldSeparator' | 'onBadRow' | 'maxBadFraction' | 'signal' | 'exact' | 'required'> {
  readonly userId: string;
  readonly itemId: string;
  /** Columns of numbers: time and labels. */
  readonly numbers: readonly string[];
  /** Files of vectors: no item id may reach the rows of one that has no list of ids. */
  readonly vectors: readonly VectorFile[];
}

/** Whether an `.inter` file is MMRec's: it has the column of the part. */
export async function isMmrec(file: string, options: AtomicOptions = {}): Promise<boolean> {
  return (await readAtomicHeader(file, options)).includes(PART_COLUMN);
}

/**
 * Reads `<stem>.inter`. DataError DATA_ROW (file, line, byte, column) for a part other than 0, 1, 2, for an item id that is no row number
 * (7, not 07 or -7), and for one that the vectors have no row for.
 */
export async function readMmrec(folder: string, stem: string, options: MmrecOptions): Promise<MmrecData> {
  const { userId, itemId, numbers, required = [], ...files } = options;
  const [fewest = null] = options.vectors.filter(({ ids }) => ids === null).sort((a, b) => a.rows - b.rows);
  const path = join(folder, `${stem}.inter`);
  const types: Record<string, AtomicType> = {};
  for (const name of await readAtomicHeader(path, files)) types[name] = numbers.includes(name) ? 'float' : 'token';
  const below = fewest === null ? '' : ` below ${fewest.rows}, the rows of ${fewest.spec.file},`;
  const inter = await readAtomicFile(path, {
    ...files,
    types,
    required: [userId, itemId, PART_COLUMN, ...required],
    checks: {
      [PART_COLUMN]: (text) => (/^[012](\.0*)?$/.test(text) ? null : '0 (train), 1 (valid) or 2 (test)'),
      [itemId]: (text) => {
        const item = /^(0|[1-9]\d{0,8})$/.test(text) ? Number(text) : -1;
        if (item < 0 || (fewest !== null && item >= fewest.rows)) return `an item number${below || ' of at least 0'}`;
        return null;
      },
    },
  });
  const label = inter.columns.get(PART_COLUMN)!;
  if (label.kind !== 'token' && label.kind !== 'float')
    throw new DataError(
      'DATA_SCHEMA',
      `${path}: expected ${PART_COLUMN} of type token or float but it is ${label.kind}`,
      {
        file: path,
        column: PART_COLUMN,
      },
    );
  const items = fewest?.rows ?? (await inTurns(itemsOf(path, inter, itemId), files.signal));
  return {
    inter,
    part: Uint8Array.from(label.values as ArrayLike<string | number>, Number),
    item: {
      name: `${stem}.item`,
      rows: items,
      columns: new Map([
        [
          itemId,
          { kind: 'token', name: itemId, values: Array.from({ length: items }, (_, i) => String(i)), missing: null },
        ],
      ]),
      counters: { bytes: 0, skipped: {}, emptyLines: 0, missing: {} },
    },
  };
}

/** The largest item number plus one. A number far beyond the rows is a slip, and would fill memory with items that nobody names. */
function* itemsOf(path: string, { rows, columns }: Table, itemId: string): Pass<number> {
  const { values } = columns.get(itemId)!;
  const most = 10 * rows + 1e6;
  let items = 0;
  yield* slices(rows, (from, to) => {
    for (let row = from; row < to; row++) {
      const item = Number(values[row]);
      if (item >= most)
        throw new DataError(
          'DATA_ROW',
          `${path}: expected item numbers below ${most} (10 times the rows and a million) but received ${item} in row ${row}`,
          { file: path, column: itemId, row },
        );
      if (item >= items) items = item + 1;
    }
  });
  return items;
}
