/** Files written by other tools, and what was read from them as plain values. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterAll, expect } from 'vitest';
import { type DataFiles, listDataFiles } from '../../../src/data/tables/data_files.js';
import { splitTokens, type Table } from '../../../src/data/tables/table.js';
import { DataError } from '../../../src/errors.js';

/** A folder that goes when the test file ends, and what fills it. */
export function scratch(name: string) {
  const folder = mkdtempSync(join(tmpdir(), `galago-${name}-`));
  afterAll(() => rmSync(folder, { recursive: true }));
  let files = 0;
  const path = (file: string): string => {
    const whole = join(folder, file);
    mkdirSync(dirname(whole), { recursive: true });
    return whole;
  };
  return {
    folder,
    path,
    /** Writes `content` to a new file, or to `file`, and lists it. */
    async write(
      extension: string,
      content: string | Uint8Array,
      file = `f${files++}.${extension}`,
    ): Promise<DataFiles> {
      writeFileSync(path(file), content);
      return listDataFiles(path(file));
    },
  };
}

/** Runs SQL statements in a DuckDB of their own. */
export async function duckdb(...statements: readonly string[]): Promise<void> {
  const instance = await DuckDBInstance.create(':memory:', { threads: '1' });
  const connection = await instance.connect();
  try {
    for (const statement of statements) await connection.run(statement);
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

/** Values of a column, null where missing, lists as arrays. */
export function valuesOf(table: Table, name: string): unknown[] {
  const column = table.columns.get(name);
  if (column === undefined) throw new Error(`no column ${name}, but ${[...table.columns.keys()].join(', ')}`);
  return Array.from({ length: table.rows }, (_, row): unknown => {
    if (column.missing?.[row] === 1) return null;
    if (column.kind === 'token_seq') return splitTokens(column, row);
    if (column.kind === 'float_seq') return [...column.values.subarray(column.offsets[row], column.offsets[row + 1])];
    return column.values[row];
  });
}

/** Kinds by column name. */
export function kindsOf(table: Table): Record<string, string> {
  return Object.fromEntries([...table.columns.values()].map(({ name, kind }) => [name, kind]));
}

/** The DataError that a promise rejects with. */
export async function faultOf(promise: Promise<unknown>): Promise<DataError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(DataError);
  return error as DataError;
}

/** Extremes that a double cannot hold, and those that are easily mistaken for "nothing" (F17, F19). */
export const EXTREME_IDS = [
  0n,
  -1n,
  -2n,
  -3n,
  1n,
  2n ** 53n + 1n,
  -(2n ** 53n) - 1n,
  7305112233445566778n,
  2n ** 63n - 1n,
  -(2n ** 63n),
];
