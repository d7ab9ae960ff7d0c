import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OnnxExportError } from '../../src/errors.js';
import {
  type OnnxRuntime,
  openOnnxRuntime,
  type RuntimeSession,
  type RuntimeTensor,
} from '../../src/io/onnx_runtime.js';
import { readSafetensors, viewAs } from '../../src/io/safetensors.js';
import type { Parity } from '../../src/serve/export_onnx.js';
import { type ExportedRun, exportRun } from '../../src/serve/export_run.js';
import type { ConfigInput } from '../../src/train/config.js';
import { trainedRun } from './served_shop.js';

const runtime = await openOnnxRuntime();
const why = runtime === null ? ' (skipped: the package onnxruntime-node is not installed)' : '';

type ModelInput = NonNullable<ConfigInput['model']>;

/** Trains a tiny model and exports it; `use` sees the folder. */
async function exported<T>(model: ModelInput, use: (out: string, result: ExportedRun) => Promise<T> | T): Promise<T> {
  using run = await trainedRun({ model });
  const out = join(run.folder, 'onnx');
  const result = await exportRun({ run: run.path, out, to: ['onnx'], device: 'cpu' });
  return await use(out, result);
}

function differences(parity: Parity | null): Readonly<Record<string, number>> {
  if (parity === null || parity === 'not run') throw new Error(`expected a comparison but received ${String(parity)}`);
  return parity.max_difference;
}

/** Runs the sample requests of a folder through its ranker. */
async function samples(out: string): Promise<{ expected: number[]; found: number[] }> {
  const stored = await readSafetensors(join(out, 'samples.safetensors'));
  const session = await runtime!.load(readFileSync(join(out, 'ranker.onnx')), 'ranker.onnx');
  const feed = (name: string): RuntimeTensor => {
    const x = stored.get(name)!;
    if (x.dtype === 'F32') return { dtype: 'float32', shape: x.shape, data: viewAs(x, 'F32') };
    if (x.dtype === 'I64') return { dtype: 'int64', shape: x.shape, data: viewAs(x, 'I64') };
    return { dtype: 'bool', shape: x.shape, data: viewAs(x, 'BOOL') };
  };
  const { score } = await session.run(Object.fromEntries(session.inputs.map((name) => [name, feed(name)])));
  await session.close();
  return { expected: [...viewAs(stored.get('expected.score')!, 'F32')], found: Array.from(score!.data, Number) };
}

const models: [string, ModelInput, string[]][] = [
  ['em3, dnn', { ranker: 'dnn' }, ['encoder.onnx', 'query_encoder.onnx']],
  [
    'lemur, dcnv2, texts and pictures',
    { name: 'lemur', ranker: 'dcnv2', modalities: ['text', 'image'] },
    ['encoder.onnx', 'query_encoder.onnx'],
  ],
  ['ids alone, din', { ranker: 'din', training: 'id_only' }, []],
];

describe.skipIf(runtime === null)(`an export to ONNX${why}`, () => {
  it.each(models)('scores and encodes as we do: %s', async (_name, model, encoders) => {
    await exported(model, async (out, { parity }) => {
      const found = differences(parity);
      expect(Object.keys(found)).toEqual(['ranker.onnx', ...encoders]);
      for (const difference of Object.values(found)) expect(difference).toBeLessThan(1e-4);
      const signature = JSON.parse(readFileSync(join(out, 'signature.json'), 'utf8')) as {
        parity: Parity;
        graphs: Record<string, { inputs: { name: string; is?: string }[] }>;
        files: Record<string, { bytes: number }>;
      };
      expect(signature.parity).toEqual(parity);
      for (const [file, { bytes }] of Object.entries(signature.files))
        expect(readFileSync(join(out, file)).length).toBe(bytes);
      for (const { inputs } of Object.values(signature.graphs)) for (const { is } of inputs) expect(is).toMatch(/\w/);
      expect([...Object.keys(signature.files), 'signature.json'].sort()).toEqual(readdirSync(out).sort());
      const { expected, found: scores } = await samples(out);
      expect(expected.length).toBe(8);
      expect(new Set(expected).size).toBeGreaterThan(4);
      scores.forEach((score, i) => expect(score).toBeCloseTo(expected[i]!, 4));
    });
  });
});

const others: [string, ModelInput][] = [
  ['fm', { ranker: 'fm' }],
  ['dlrm', { ranker: 'dlrm' }],
  ['mmoe', { ranker: 'mmoe' }],
  ['rankmixer', { ranker: 'rankmixer' }],
  ['sim', { ranker: 'sim' }],
];

describe.skipIf(runtime === null)(`further rankers as ONNX graphs${why}`, () => {
  it.each(others)('%s', async (_name, model) => {
    await exported(model, (_out, { parity }) =>
      expect(Math.max(...Object.values(differences(parity)))).toBeLessThan(1e-4),
    );
  });
});

/** A runtime whose results are off by `error`. */
function offBy(error: number): () => Promise<OnnxRuntime> {
  const session: RuntimeSession = {
    inputs: [],
    outputs: ['score'],
    run: async (feeds) => {
      const rows = Object.values(feeds)[0]!.shape[0]!;
      return { score: { shape: [rows], data: new Float32Array(rows).fill(error) } };
    },
    close: async () => undefined,
  };
  return async () => ({ version: 'none', load: async () => session });
}

describe('the comparison of graphs with our scores', () => {
  let run: Awaited<ReturnType<typeof trainedRun>>;
  beforeAll(async () => {
    run = await trainedRun({ model: { ranker: 'dnn', training: 'id_only' } });
  });
  afterAll(() => run[Symbol.dispose]());

  it('fails above the tolerance and leaves nothing behind', async () => {
    const out = join(run.folder, 'wrong');
    const failed = exportRun({ run: run.path, out, to: ['onnx', 'safetensors'], device: 'cpu', openRuntime: offBy(7) });
    await expect(failed).rejects.toThrow(OnnxExportError);
    await expect(failed).rejects.toThrow(/ranker\.onnx: output score: expected .* but the runtime gave 7/);
    expect(existsSync(out)).toBe(false);
  });

  it('is not run without the runtime, and says so', async () => {
    const out = join(run.folder, 'alone');
    const notes: string[] = [];
    const { parity } = await exportRun({
      ...{ run: run.path, out, to: ['onnx'] as const, device: 'cpu' },
      onNote: (line) => notes.push(line),
      openRuntime: async () => null,
    });
    expect(parity).toBe('not run');
    expect(notes.join()).toMatch(/onnxruntime-node is not installed: .* \(parity: not run\)/);
    expect(readFileSync(join(out, 'signature.json'), 'utf8')).toContain('"parity": "not run"');
  });
});
