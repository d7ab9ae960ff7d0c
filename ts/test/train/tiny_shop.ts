/** A shop that trains in a second, for tests of runs. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConfigInput, type ResolvedConfig, resolveConfig } from '../../src/train/config.js';

export const tinyShop = { seed: 1, items: 40, users: 20, sessions: 240 } as const;

/** Options of a command line that ask for the same shop. */
export const tinyShopOptions: readonly string[] = Object.entries(tinyShop).map(
  ([key, value]) => `--data.shop.${key}=${value}`,
);

export function tinyConfig({ data, model, train }: Pick<ConfigInput, 'data' | 'model' | 'train'> = {}): ResolvedConfig {
  return resolveConfig({
    object: {
      data: { shop: tinyShop, ...data },
      ...(model === undefined ? {} : { model }),
      train: { epochs: 2, train_batch_size: 32, ...train },
    },
  });
}

/** A folder of its own that is removed when the returned object is disposed. */
export function temporaryFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'galago-run-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
