/** Data in the form of FuxiCTR whose histories stand in columns: parts as CSV, categories in an item table, and the two files that describe them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { uniforms } from '../../src/random.js';

export interface ClickRow {
  readonly clk: 0 | 1;
  readonly user: string;
  readonly item: string;
  readonly hour: number;
  /** Earlier clicks of the user, oldest first: more than are kept, and none of a new user. */
  readonly clicks: readonly string[];
  readonly categories: readonly string[];
}

const ITEMS = 30;
/** What a history keeps. */
export const MAX_CLICKS = 4;

const category = (item: string): string => `c${Number(item) % 5}`;

function rowsOf(count: number, seed: number): ClickRow[] {
  const u = uniforms(5 * count, seed, 1);
  const past = new Map<string, string[]>();
  return Array.from({ length: count }, (_, i) => {
    const draw = (at: number, below: number): number => Math.floor(u[5 * i + at]! * below);
    const user = `u${draw(0, 12)}`;
    const clicks = [...(past.get(user) ?? [])];
    const item = clicks.length > 0 && u[5 * i + 1]! < 0.2 ? clicks[draw(2, clicks.length)]! : String(draw(2, ITEMS));
    const clk = u[5 * i + 3]! < (Number(item) % 5 < 2 ? 0.8 : 0.3) ? 1 : 0;
    if (clk === 1) past.set(user, [...clicks, item]);
    return { clk, user, item, hour: draw(4, 24), clicks, categories: clicks.map(category) };
  });
}

/** Rows of each part. */
export const clickRows = { train: rowsOf(320, 1), valid: rowsOf(96, 2), test: rowsOf(96, 3) };

/** Writes the parts, `dataset.yaml` and `model.yaml` (experiment `DIN_clicks`) into `folder`. */
export function writeClickColumns(folder: string): void {
  for (const [part, rows] of Object.entries(clickRows)) {
    const lines = rows.map(({ clk, user, item, hour, clicks, categories }) =>
      [clk, user, item, hour, clicks.join('^'), categories.join('^')].join(','),
    );
    writeFileSync(join(folder, `${part}.csv`), `clk,user,item,hour,click_his,cate_his\n${lines.join('\n')}\n`);
  }
  const items = Array.from({ length: ITEMS }, (_, item) => `${item},${category(String(item))}`);
  writeFileSync(join(folder, 'items.csv'), `item,cate\n${items.join('\n')}\n`);
  const sequence = `type: sequence, splitter: ^, max_len: ${MAX_CLICKS}, dtype: str`;
  writeFileSync(
    join(folder, 'dataset.yaml'),
    `clicks:
  data_format: csv
  train_data: ${folder}/train.csv
  valid_data: ${folder}/valid.csv
  test_data: ${folder}/test.csv
  item_info: ${folder}/items.csv
  feature_cols:
    - { name: [user, item], active: True, dtype: str, type: categorical }
    - { name: cate, active: True, dtype: str, type: categorical, source: item }
    - { name: hour, active: True, dtype: float, type: numeric }
    - { name: click_his, active: True, share_embedding: item, ${sequence} }
    - { name: cate_his, active: True, share_embedding: cate, ${sequence} }
  label_col: { name: clk, dtype: float }
`,
  );
  writeFileSync(
    join(folder, 'model.yaml'),
    `DIN_clicks:
  model: DIN
  dataset_id: clicks
  learning_rate: 1.e-2
  batch_size: 32
  embedding_dim: 8
  dnn_hidden_units: [16]
  dnn_activations: relu
  attention_hidden_units: [8]
  attention_hidden_activations: Dice
  attention_dropout: 0
  din_sequence_field: [click_his, cate_his]
  din_target_field: [item, cate]
  metrics: [AUC, logloss]
  monitor: AUC
  epochs: 2
  seed: 7
`,
  );
}
