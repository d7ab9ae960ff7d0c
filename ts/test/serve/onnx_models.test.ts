/** One ONNX export per option that changes what a graph computes: scores and vectors of ONNX Runtime are ours. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OnnxExportError } from '../../src/errors.js';
import { encodeNpy } from '../../src/io/npy.js';
import { openOnnxRuntime } from '../../src/io/onnx_runtime.js';
import { readSafetensors, viewAs } from '../../src/io/safetensors.js';
import { type ExportedRun, exportRun } from '../../src/serve/export_run.js';
import { type ConfigInput, resolveConfig } from '../../src/train/config.js';
import { trainRun } from '../../src/train/run.js';

const runtime = await openOnnxRuntime();
const why = runtime === null ? ' (skipped: the package onnxruntime-node is not installed)' : '';

const root = mkdtempSync(join(tmpdir(), 'galago-onnx-'));
afterAll(() => rmSync(root, { recursive: true }));
let runs = 0;

type ModelInput = NonNullable<ConfigInput['model']>;
type FusionInput = NonNullable<ModelInput['fusion']>;

const image = { width: 8, layers: 1, heads: 2, ffn: 8, patch: 8 };
const encoder = { width: 16, layers: 1, heads: 2, ffn: 16, image };
const fusion: FusionInput = { width: 16, heads: 2, layers: 2, queries: 2 };
const small: ModelInput = { encoder, fusion, history_len: 12, mlp: [16], embedding_dim: 16 };

/** Trains an epoch and exports it. */
async function exported(object: ConfigInput): Promise<ExportedRun & { readonly run: string }> {
  const run = join(root, `run${runs++}`);
  const config = resolveConfig({ object: { train: { epochs: 1, train_batch_size: 32 }, ...object } });
  const { model } = await trainRun(config, { runDir: run });
  model.dispose();
  return { run, ...(await exportRun({ run, out: `${run}.onnx`, to: ['onnx'], device: 'cpu' })) };
}

/** Largest difference of each graph. */
async function differences(object: ConfigInput): Promise<Readonly<Record<string, number>>> {
  const { parity } = await exported(object);
  if (parity === null || parity === 'not run') throw new Error(`expected a comparison but received ${String(parity)}`);
  return parity.max_difference;
}

const shop = { seed: 1, items: 40, users: 12, sessions: 100 };
const lemur: ModelInput = { name: 'lemur', modalities: ['text', 'image'], sequences: { short: 4, long: 12 } };

const shopCases: [string, ModelInput][] = [
  ['lora_cached', { lora: { mode: 'lora_cached', rank: 2 } }],
  ['lora_block', { lora: { mode: 'lora_block', rank: 2 } }],
  ['shared', { lora: { mode: 'shared' } }],
  ['cross attention', { fusion: { ...fusion, attention: 'cross' } }],
  ['exact', { fusion: { ...fusion, mode: 'exact', ffn: 0 } }],
  ['exact, lora_block', { fusion: { ...fusion, mode: 'exact', ffn: 0 }, lora: { mode: 'lora_block', rank: 2 } }],
  ['encoder LoRA', { encoder: { ...encoder, lora: { rank: 2 } } }],
  ['pooled patches', { encoder: { ...encoder, cache_tokens: 4 } }],
  ['pooled patches, lora_block', { encoder: { ...encoder, cache_tokens: 9 }, lora: { mode: 'lora_block', rank: 2 } }],
  ['sim_tier', { ...lemur, similarity: 'sim_tier' }],
  ['time gaps, literal decoder', { ...lemur, decoder: { time_gaps: true, paper_literal: true, queries: 2 } }],
  ['DIN over clicks', { ...lemur, ranker: 'din', sequences: { short: 4, long: 12, to_ranker: 'long' } }],
  ['SIM, soft search', { ranker: 'sim', sim: { top_k: 3 } }],
  ['SIM, content search', { ranker: 'sim', sim: { search: 'content', top_k: 3 } }],
  ['LONGER', { ranker: 'longer', longer: { width: 16, merge: 4, latest: 2, ffn: 16, positions: 8 } }],
  ['LONGER, ids alone', { ranker: 'longer', training: 'id_only', longer: { width: 16, layers: 3, latest: 3 } }],
  ['RankMixer over LONGER', { ranker: 'rankmixer', rankmixer: { width: 16, tokens: 4, sequence: 'longer' } }],
  ['DLRM of concatenated fields', { ranker: 'dlrm', dlrm: { interaction: 'concat' } }],
];

describe.skipIf(runtime === null)(`graphs of models of a shop${why}`, () => {
  it.each(shopCases)('%s', async (_name, model) => {
    const found = await differences({ data: { shop }, model: { ...small, ...model } });
    for (const difference of Object.values(found)) expect(difference).toBeLessThan(1e-5);
  });
});

// ---- given vectors, categories, numbers, several labels

const folder = mkdtempSync(join(tmpdir(), 'galago-onnx-data-'));
beforeAll(() => {
  const items = 24;
  const events = Array.from({ length: 200 }, (_, i) => {
    const seen = Array.from({ length: i % 7 }, (_, k) => `i${(i + 3 * k * k) % items}`);
    return `u${i % 8}\ti${(5 * i + (i >> 3)) % items}\t${(i * i) % 3 ? 1 : 0}\t${i % 4 ? 0 : 1}\t${i}\t${seen.join(' ')}\t${seen.join(' ')}\ts${i % 3}`;
  });
  const name = folder.split('/').at(-1)!;
  writeFileSync(
    join(folder, `${name}.inter`),
    `user_id:token\titem_id:token\tclick:float\tbuy:float\ttimestamp:float\tseen:token_seq\thistory:token_seq\tscore:token\n${events.join('\n')}\n`,
  );
  const rows = Array.from({ length: items }, (_, i) => `i${i}\tc${i % 3}\t${i / 4}\tt${i % 2} t${i % 5}`);
  writeFileSync(
    join(folder, `${name}.item`),
    `item_id:token\tcategory:token\tprice:float\ttags:token_seq\n${rows.join('\n')}\n`,
  );
  const vectors = (dim: number): Uint8Array => {
    const data = Float32Array.from({ length: (items - 2) * dim }, (_, at) => Math.sin(1 + 7 * at));
    return encodeNpy({ dtype: 'float32', shape: [items - 2, dim], data });
  };
  writeFileSync(join(folder, 'image_feat.npy'), vectors(6));
  writeFileSync(join(folder, 'text_feat.npy'), vectors(4));
  writeFileSync(join(folder, 'ids.txt'), Array.from({ length: items - 2 }, (_, i) => `i${i}\n`).join(''));
});
afterAll(() => rmSync(folder, { recursive: true }));

function files(model: ModelInput, more: Pick<ConfigInput, 'data' | 'eval'> = {}): ConfigInput {
  return {
    data: { path: folder, label: { column: 'click' }, ...more.data },
    eval: more.eval,
    feature_cols: [
      { name: 'user_id', type: 'categorical' },
      { name: 'item_id', type: 'categorical' },
      { name: 'category', type: 'categorical', source: 'item' },
      { name: 'price', type: 'numeric', source: 'item' },
      { name: 'tags', type: 'sequence', source: 'item', max_len: 3 },
      { name: 'history', type: 'history', of: 'item_id', share_embedding: 'item_id', max_len: 9 },
      { name: 'categories', type: 'history', of: 'category', share_embedding: 'category', max_len: 9 },
      { name: 'image', type: 'embedding', file: 'image_feat.npy' },
      { name: 'text', type: 'embedding', file: 'text_feat.npy' },
    ],
    model: { ...small, ...model },
  };
}

/** A history of a column beside those of events. */
function withColumn(model: ModelInput): ConfigInput {
  const { feature_cols: columns = [], ...rest } = files(model);
  return { ...rest, feature_cols: [...columns, { name: 'seen', type: 'sequence', of: 'item_id', max_len: 4 }] };
}

/** A column that bears a name of graphs. */
function withNamed(column: NonNullable<ConfigInput['feature_cols']>[number]): ConfigInput {
  const { feature_cols: columns = [], ...rest } = files({ ranker: 'din', training: 'id_only' });
  const clicks = columns.map((each) => (each.name === 'history' ? { ...each, name: 'clicks' } : each));
  return { ...rest, feature_cols: [...clicks, column] };
}

const several = { data: { more_labels: [{ column: 'buy' }] } };
const fileCases: [string, ConfigInput][] = [
  ['given vectors as content', files({ ranker: 'din' })],
  ['given vectors as content and as an input', files({ ranker: 'dnn', modalities: ['image'] })],
  ['given vectors, lora_block', files({ lora: { mode: 'lora_block', rank: 2 } })],
  ['given vectors, ids alone', files({ ranker: 'dcnv2', training: 'id_only' })],
  ['SIM, hard search', files({ ranker: 'sim', sim: { search: 'hard', top_k: 2 } })],
  ['MMoE of two labels', files({ ranker: 'mmoe' }, several)],
  ['DIN, a history in a column', withColumn({ ranker: 'din' })],
  ['SIM, a history in a column', withColumn({ ranker: 'sim', sim: { top_k: 3 } })],
  ['LONGER, a history in a column', withColumn({ ranker: 'longer', longer: { width: 16, latest: 2 } })],
  [
    'a column history beside a history of events',
    withNamed({ name: 'history', type: 'sequence', of: 'item_id', max_len: 4 }),
  ],
  ['LONGER of two histories', files({ ranker: 'longer', longer: { width: 16, latest: 2 } })],
];

describe.skipIf(runtime === null)(`graphs of models of files${why}`, () => {
  it.each(fileCases)('%s', async (_name, object) => {
    for (const difference of Object.values(await differences(object))) expect(difference).toBeLessThan(1e-5);
  });
});

describe.skipIf(runtime === null)(`a graph of two labels${why}`, () => {
  it('has an output for each', async () => {
    const { run } = await exported(files({ ranker: 'mmoe', training: 'id_only' }, several));
    const session = await runtime!.load(readFileSync(join(`${run}.onnx`, 'ranker.onnx')), 'ranker.onnx');
    expect(session.outputs).toEqual(['score', 'score.buy']);
    await session.close();
    const samples = await readSafetensors(join(`${run}.onnx`, 'samples.safetensors'));
    const of = (name: string): number[] => [...viewAs(samples.get(name)!, 'F32')];
    expect(of('expected.score.buy')).not.toEqual(of('expected.score'));
  });
});

describe('given vectors that a graph reads as they are', () => {
  it('are rows of items.safetensors, and the signature says so', async () => {
    const { run } = await exported(files({ ranker: 'dnn', training: 'id_only', modalities: ['image'] }));
    const out = `${run}.onnx`;
    const items = await readSafetensors(join(out, 'items.safetensors'));
    expect([...items.keys()].filter((name) => name.startsWith('given.'))).toEqual(['given.text']);
    expect(items.get('given.text')!.shape).toEqual([24, 4]);
    const { graphs } = JSON.parse(readFileSync(join(out, 'signature.json'), 'utf8')) as {
      graphs: Record<string, { inputs: { name: string; is: string }[] }>;
    };
    const { is } = graphs['ranker.onnx']!.inputs.find(({ name }) => name === 'text')!;
    expect(is).toBe('row of given.text in items.safetensors of the item that is scored');
    const rows = viewAs(items.get('given.text')!, 'F32');
    const known = new Set(Array.from({ length: 24 }, (_, item) => rows.slice(4 * item, 4 * item + 4).join()));
    const samples = await readSafetensors(join(out, 'samples.safetensors'));
    const sampled = viewAs(samples.get('text')!, 'F32');
    for (let b = 0; b < sampled.length / 4; b++) expect(known).toContain(sampled.slice(4 * b, 4 * b + 4).join());
  });
});

describe('models without a graph', () => {
  it('a feature with the name of an output is refused by name', async () => {
    const failed = exported(withNamed({ name: 'score', type: 'categorical' }));
    await expect(failed).rejects.toThrow(OnnxExportError);
    await expect(failed).rejects.toThrow(
      'feature score: expected another name, graphs have an input or output score of their own',
    );
  });

  it.each(['freedom', 'em3_release'] as const)('%s is refused by name and leaves nothing behind', async (name) => {
    const { data, feature_cols: columns } = files({});
    const object: ConfigInput = {
      data: { ...data, label: { column: null }, allow_duplicates: true },
      feature_cols: columns!
        .filter(({ type }) => type === 'embedding' || type === 'categorical')
        .slice(0, 2)
        .concat(columns!.slice(-2)),
      model: { name },
    };
    const before = new Set(readdirSync(root));
    const failed = exported(object);
    await expect(failed).rejects.toThrow(OnnxExportError);
    await expect(failed).rejects.toThrow(
      new RegExp(`--to onnx: model.name ${name}: .*; --to npy gives those vectors$`),
    );
    expect(readdirSync(root).filter((entry) => !before.has(entry))).toEqual([`run${runs - 1}`]);
  });
});
