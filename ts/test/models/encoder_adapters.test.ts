import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { ConfigError, ModelFileError } from '../../src/errors.js';
import { peftFiles, readPeft } from '../../src/io/peft.js';
import { viewAs } from '../../src/io/safetensors.js';
import {
  adapterOptions,
  loadEncoderAdapters,
  readEncoderAdapters,
  saveEncoderAdapters,
} from '../../src/models/encoder_adapters.js';
import type { RecommenderModel } from '../../src/models/model.js';
import { layerNames } from '../../src/models/pretrained_content.js';
import { injectLora } from '../../src/nn/lora_adapters.js';
import { Initializer } from '../../src/nn/module.js';
import { TextEncoder } from '../../src/nn/text_encoder.js';
import { normals, streamOf } from '../../src/random.js';
import { assign, tensor } from '../../src/tensor.js';
import { tidy } from '../../src/tidy.js';
import { bytesOf, rowsOf, valuesOf, worstDifference } from '../values.js';
import { batches, bytesByName, Steps, tinyData, tinyEm3 } from './tiny_em3.js';
import { sampled, tinyLemur } from './tiny_lemur.js';

const sample = fileURLToPath(new URL('../io/peft', import.meta.url));
const encoderLora = { rank: 2, alpha: 16, targets: ['query', 'value'] };
const lowRank = { tuneLayers: 0, encoderLora } as const;
let data: Dataset;
let some: Batch[];
let folder = '';
beforeAll(async () => {
  data = await tinyData();
  some = await batches(data, 4);
  folder = await mkdtemp(join(tmpdir(), 'galago-adapters-'));
});
afterAll(async () => {
  await data[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const lemurContent = { content: { ...sampled(100).content, ...lowRank } };
const models: [string, (adapted: boolean) => RecommenderModel, RegExp][] = [
  ['em3', (adapted) => tinyEm3(data, adapted ? { content: lowRank } : {}), /^content\.(text|image)\./],
  ['lemur', (adapted) => tinyLemur(data, adapted ? lemurContent : sampled(100)), /^content\.document\.(text|image)\./],
];
const context = { training: true, step: 1, stage: 'ranker' } as const;

describe.each(models)('adapters of the item encoders of %s', (_, make, encoders) => {
  it('change no bit of the loss at start', async () => {
    const loss = async (adapted: boolean) => {
      using model = make(adapted);
      return bytesOf(tidy(() => model.graph(some[0]!, context).loss));
    };
    expect((await loss(true)).equals(await loss(false))).toBe(true);
  });

  it('train in a group of their own; the encoders beneath keep every byte and get no gradient', async () => {
    using model = make(true);
    using steps = new Steps(model);
    const groups = model.groups();
    expect([...groups.lora.keys()].every((name) => encoders.test(name) && /\.lora\.[ab]$/.test(name))).toBe(true);
    const layers = [...model.adapters.values()].flatMap(({ layers }) => [...layers.keys()]);
    expect(groups.lora.size).toBe(2 * layers.length);
    expect([...model.adapters.keys()]).toEqual(['text', 'image']);
    for (const name of [...groups.encoder.keys(), ...groups.encoderSparse.keys()]) expect(name).not.toMatch(encoders);
    const parts = new Map([...model.state()].filter(([name]) => encoders.test(name)));
    const before = await bytesByName(parts);
    for (const batch of some)
      await steps.take(batch, () => {
        for (const [name, x] of parts) if (!/\.lora\./.test(name)) expect([name, x.grad]).toEqual([name, null]);
      });
    const after = await bytesByName(parts);
    for (const name of parts.keys())
      expect([name, after[name] !== before[name]]).toEqual([name, /\.lora\./.test(name)]);
  });

  it('are saved as PEFT folders and loaded to the same bytes', async () => {
    using model = make(true);
    for (const { layers } of model.adapters.values())
      for (const [path, { b }] of layers) assign(b, Float32Array.from(normals(b.size, 1, streamOf(path))));
    const [first, second] = [join(folder, `${_}-1`), join(folder, `${_}-2`)];
    await saveEncoderAdapters(model.adapters, first);
    using other = make(true);
    const read = await readEncoderAdapters(first, ['text', 'image']);
    expect(adapterOptions(read)).toEqual({ ...encoderLora, dropout: 0 });
    loadEncoderAdapters(other.adapters, read);
    expect(await bytesByName(other.groups().lora)).toEqual(await bytesByName(model.groups().lora));
    await saveEncoderAdapters(other.adapters, second, read);
    for (const name of ['text', 'image'])
      for (const file of Object.values(peftFiles))
        expect((await readFile(join(second, name, file))).equals(await readFile(join(first, name, file)))).toBe(true);
  });
});

describe('an adapter in PEFT’s layout that another program made', () => {
  it('gives W0 x + b0 + (alpha / r) B A x', async () => {
    const adapter = await readPeft(sample);
    const init = new Initializer(2, 'float64');
    using encoder = new TextEncoder(init, { vocabularySize: 3, positions: 2, types: 1, width: 8, layers: 1, heads: 2 });
    const adapters = injectLora(encoder, init, adapter);
    loadEncoderAdapters(new Map([['text', adapters]]), new Map([['text', adapter]]));
    const { query } = encoder.blocks[0]!.attention;
    const x = normals(3 * 8, 5, 5);
    const [weight, bias] = [rowsOf(await valuesOf(query.weight), 8), await valuesOf(query.bias!)];
    const { a, b } = adapter.layers.get('blocks.0.attention.query')!;
    const [A, B] = [rowsOf(Float64Array.from(viewAs(a, 'F32')), 8), rowsOf(Float64Array.from(viewAs(b, 'F32')), 2)];
    const dot = (u: Float64Array, v: Float64Array) => u.reduce((total, value, i) => total + value * v[i]!, 0);
    const expected = rowsOf(x, 8).flatMap((row) =>
      weight.map(
        (w, o) => dot(w, row) + bias[o]! + (16 / 2) * (B[o]![0]! * dot(A[0]!, row) + B[o]![1]! * dot(A[1]!, row)),
      ),
    );
    expect(worstDifference(await valuesOf(query.forward(tensor(x, [3, 8]))), expected)).toBeLessThan(1e-13);
  });

  it('loads into the text encoder of a model', async () => {
    using model = tinyEm3(data, { content: lowRank });
    const read = await readEncoderAdapters(sample, ['text', 'image']);
    expect([...read.keys()]).toEqual(['text']);
    loadEncoderAdapters(model.adapters, read);
    const { a } = model.content!.text!.blocks[0]!.attention.value.lora!;
    expect([...(await valuesOf(a))].slice(0, 2)).toEqual([-12 / 64, -5 / 64]);
  });

  it('of other layers, shapes, rank or alpha is refused with every difference', async () => {
    const read = await readEncoderAdapters(sample, ['text']);
    using other = tinyEm3(data, {
      content: { tuneLayers: 0, encoderLora: { rank: 2, alpha: 4, targets: ['query', 'up'] }, text: { width: 12 } },
    });
    const failed = (() => {
      try {
        loadEncoderAdapters(other.adapters, read);
      } catch (error) {
        return error;
      }
      return null;
    })();
    expect(failed).toBeInstanceOf(ModelFileError);
    expect((failed as ModelFileError).fields['differences']).toEqual([
      'text: expected rank 2 and alpha 4 but received 2 and 16',
      'text layer blocks.0.attention.query, a: expected (2, 12) but received (2, 8)',
      'text layer blocks.0.attention.query, b: expected (12, 2) but received (8, 2)',
      'missing text layer blocks.0.up',
      'unexpected text layer blocks.0.attention.value',
    ]);
  });

  it('is looked for in the folder, then by encoder', async () => {
    await expect(readEncoderAdapters(join(folder, 'none'), ['text'])).rejects.toThrow(ConfigError);
    const both = join(folder, 'both');
    for (const name of ['text', 'image']) {
      await mkdir(join(both, name), { recursive: true });
      await cp(join(sample, peftFiles.config), join(both, name, peftFiles.config));
      await cp(join(sample, peftFiles.model), join(both, name, peftFiles.model));
    }
    expect([...(await readEncoderAdapters(both, ['image'])).keys()]).toEqual(['image']);
    const read = await readEncoderAdapters(both, ['text', 'image']);
    expect(adapterOptions(read)).toEqual({ rank: 2, alpha: 16, dropout: 0, targets: ['query', 'value'] });
    const other = new Map([...read, ['image', { ...read.get('image')!, rank: 3 }] as const]);
    expect(() => adapterOptions(other)).toThrow('expected adapters of all encoders to agree');
  });
});

it('targets that no encoder has are refused with the layers that there are', () => {
  const make = (targets: readonly string[] | string) =>
    tinyEm3(data, { content: { tuneLayers: 0, encoderLora: { rank: 1, alpha: 1, targets } } });
  expect(() => make(['query', 'q_proj', 'k_proj'])).toThrow(
    /expected names of linear layers, or their ends \(query, .*\), but received q_proj, k_proj/,
  );
  expect(() => make('q_proj')).toThrow(ConfigError);
});

it.each([
  ['bert', 'encoder.layer.3.attention.self.query'],
  ['vit', 'encoder.layer.3.attention.attention.query'],
  ['clip_text', 'text_model.encoder.layers.3.self_attn.q_proj'],
  ['siglip_image', 'vision_model.encoder.layers.3.self_attn.q_proj'],
] as const)('layers of a published %s have the names that PEFT gives them', (family, name) => {
  expect(layerNames({ family })!('blocks.3.attention.query')).toBe(name);
});
