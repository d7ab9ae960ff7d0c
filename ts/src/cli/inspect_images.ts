import { Entity } from '../data/entity.js';
import { decodeImages } from '../data/images/images.js';
import { findItemImages } from '../data/images/load_images.js';
import type { Table } from '../data/tables/table.js';
import type { Config } from '../train/config_schema.js';
import type { Output } from './verb.js';

/** Pictures that are decoded unless all are asked for. */
const SAMPLE = 2000;
/** Only whether they decode is of interest. */
const SIZE = 32;

/**
 * Finds the pictures of the items, decodes all of them or an even sample, and prints where they are, how many items have one, and why
 * pictures are bad.
 */
export async function inspectImages(
  { item, folder, all }: { readonly item: Table; readonly folder: string; readonly all: boolean },
  { data, image, feature_cols }: Config,
  { stdout }: Output,
): Promise<Record<string, unknown>> {
  const named = feature_cols.find(({ type }) => type === 'image')?.name;
  const column = named ?? 'image';
  const entity = new Entity('item', item.rows, item);
  const items = { entity, ids: entity.strings(data.item_id ?? 'item_id') };
  const found = await findItemImages(items, column, { folder, imageRoot: data.image_root });
  const { kind, summary } = found.source;
  const there = found.names.filter((name) => name !== null && name !== '');
  const step = all ? 1 : Math.max(1, there.length / SAMPLE);
  const tried = Array.from({ length: Math.ceil(there.length / step) }, (_, i) => there[Math.floor(i * step)]!);
  const { counters, bad } = await decodeImages(tried, {
    root: found.source,
    size: SIZE,
    fit: image.fit,
    maxDecodeBytes: image.max_decode_bytes,
    maxBadFraction: 1,
    cache: { memory: 0 },
  }).then(async ({ reader, ...rest }) => {
    await reader?.[Symbol.asyncDispose]();
    return rest;
  });
  const reasons = Object.fromEntries(Object.entries(counters.bad).filter(([, count]) => count > 0));
  stdout.write(`pictures: ${summary}; ${there.length} of ${item.rows} items have one\n`);
  stdout.write(
    `  ${tried.length} of ${there.length} tried: ${counters.decoded} decode${Object.entries(reasons)
      .map(([reason, count]) => `, ${count} ${reason.replaceAll('_', ' ')}`)
      .join('')}\n`,
  );
  for (const { path, message } of bad.slice(0, 10)) stdout.write(`  ${path}: ${message}\n`);
  stdout.write(`  on_bad_image ${image.on_bad_image}, max_bad_fraction ${image.max_bad_fraction}\n`);
  return {
    kind,
    summary,
    items_with_picture: there.length,
    tried: tried.length,
    decoded: counters.decoded,
    bad: reasons,
    on_bad_image: image.on_bad_image,
    max_bad_fraction: image.max_bad_fraction,
  };
}
