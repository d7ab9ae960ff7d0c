/** Pictures by item id, for items that no table of items lists. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadDataset } from '../../../src/data/load_dataset.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-pictured-'));
const pictured = ['a', 'b', 'd'];
beforeAll(async () => {
  mkdirSync(join(folder, 'images'));
  const packed = pack();
  for (const [i, id] of pictured.entries()) {
    const pixels = new Uint8Array(8 * 8 * 3).fill(40 * (i + 1));
    const file = join(folder, 'images', `${id}.png`);
    await sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } }).toFile(file);
    packed.entry({ name: `${id}.png` }, readFileSync(file));
  }
  packed.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of packed) chunks.push(chunk as Buffer);
  writeFileSync(join(folder, 'shard.tar'), Buffer.concat(chunks));
  const events = Array.from({ length: 60 }, (_, i) => `u${i % 5}\t${'abcd'[(i * 7 + (i >> 3)) % 4]}\t${i % 2}\t${i}`);
  writeFileSync(
    join(folder, 'set.inter'),
    `user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n${events.join('\n')}\n`,
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

const table = join(folder, 'set.item');

/** Whether each item, by id, has a picture; and the digest of the data. */
async function found(imageRoot: string | null): Promise<{ present: Record<string, number>; digest: string }> {
  await using data = await loadDataset(folder, {
    ...{ imageRoot, workers: 0, allowDuplicates: true },
    features: [
      { name: 'user_id', type: 'categorical' },
      { name: 'item_id', type: 'categorical' },
      { name: 'image', type: 'image', source: 'item', size: 8 },
    ],
  });
  const ids = data.items.ids;
  const { image } = await data.itemContent(Int32Array.from(ids.keys()));
  return { present: Object.fromEntries(ids.map((id, i) => [id, image!.present[i]!])), digest: data.digest };
}

describe('pictures by item id', () => {
  it('are found without a table of items, in a folder and in a tar alike', async () => {
    const files = await found(null);
    expect(files.present).toEqual({ a: 1, b: 1, c: 0, d: 1 });
    expect(await found(join(folder, 'shard.tar'))).toEqual(files);
  });

  it('are found for items that the table does not list', async () => {
    writeFileSync(table, 'item_id:token\ttitle:token_seq\na\tlamp\nc\tchair\n');
    expect((await found(null)).present).toEqual({ a: 1, b: 1, c: 0, d: 1 });
  });
});
