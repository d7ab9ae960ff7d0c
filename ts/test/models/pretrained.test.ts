/** Encoders of Hugging Face folders against a plain PyTorch reference (scripts/golden_encoders.py), and folders that are wrong. */
import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ModelFileError } from '../../src/errors.js';
import { type HostTensor, hostTensor, readSafetensors, safetensorsBytes } from '../../src/io/safetensors.js';
import { openPretrained, type PretrainedEncoders, savePretrained } from '../../src/models/pretrained.js';
import { huggingFaceModule } from '../../src/models/pretrained_names.js';
import type { Pictures } from '../../src/nn/image_encoder.js';
import { Linear } from '../../src/nn/linear.js';
import { Module } from '../../src/nn/module.js';
import type { TokenSequences } from '../../src/nn/text_encoder.js';
import { assign, type Tensor } from '../../src/tensor.js';
import { testDevices } from '../test_devices.js';
import { valuesOf, worstDifference } from '../values.js';

const golden = fileURLToPath(new URL('../golden/encoders/', import.meta.url));
const evaluation = { training: false };

interface Expected {
  readonly texts?: readonly { ids: number[]; types: number[]; hidden: number[]; pooled: number[] }[];
  readonly pictures?: readonly { pixels: number[]; hidden: number[]; pooled: number[] }[];
}

async function expectedOf(name: string): Promise<Expected> {
  return JSON.parse(await readFile(join(golden, name, 'expected.json'), 'utf8')) as Expected;
}

function sequences(texts: readonly { ids: number[]; types: number[] }[]): TokenSequences {
  const offsets = new Int32Array(texts.length + 1);
  texts.forEach(({ ids }, b) => {
    offsets[b + 1] = offsets[b]! + ids.length;
  });
  return {
    tokens: Int32Array.from(texts.flatMap(({ ids }) => ids)),
    types: Int32Array.from(texts.flatMap(({ types }) => types)),
    positions: Int32Array.from(texts.flatMap(({ ids }) => [...ids.keys()])),
    offsets,
  };
}

function picturesOf(pictures: readonly { pixels: number[] }[]): Pictures {
  return {
    pixels: Uint8Array.from(pictures.flatMap(({ pixels }) => pixels)),
    present: new Uint8Array(pictures.length).fill(1),
    size: 16,
  };
}

/** The largest absolute difference from what is expected. */
async function worst(given: Tensor, expected: readonly number[][]): Promise<number> {
  const values = await valuesOf(given);
  const all = expected.flat();
  expect(values.length).toBe(all.length);
  return values.reduce((most, x, i) => Math.max(most, Math.abs(x - all[i]!)), 0);
}

const folders = ['bert', 'bert_prefixed', 'roberta', 'vit', 'clip', 'clip_text', 'siglip'] as const;

describe.each(folders)('%s', (name) => {
  it.each(testDevices)('computes the hidden states and pooled outputs of the reference, on %s', async (device) => {
    const expected = await expectedOf(name);
    const { text, image } = await openPretrained(join(golden, name), { device });
    expect([text !== null, image !== null]).toEqual([expected.texts !== undefined, expected.pictures !== undefined]);
    if (text !== null) {
      const batch = sequences(expected.texts!);
      const hidden = expected.texts!.map((x) => x.hidden);
      const pooled = expected.texts!.map((x) => x.pooled);
      expect(await worst(text.tokens(batch, evaluation).rows, hidden)).toBeLessThan(1e-4);
      expect(await worst(text.pooled(batch, evaluation), pooled)).toBeLessThan(1e-4);
    }
    if (image !== null) {
      const batch = picturesOf(expected.pictures!);
      const hidden = expected.pictures!.map((x) => x.hidden);
      const pooled = expected.pictures!.map((x) => x.pooled);
      expect(await worst(image.tokens(batch, evaluation).rows, hidden)).toBeLessThan(1e-4);
      expect(await worst(image.pooled(batch, evaluation), pooled)).toBeLessThan(1e-4);
    }
    text?.dispose();
    image?.dispose();
  });

  it('names every linear layer as the folder does', async () => {
    const { text, image, weights } = await openPretrained(join(golden, name));
    for (const [encoder, architecture] of [
      [text, weights.text],
      [image, weights.image],
    ] as const) {
      if (encoder === null || architecture === null) continue;
      const names = [...weights.tensors.keys()];
      for (const path of linears(encoder, '')) {
        if (/^pooling\.attention\.(query|key|value)$/.test(path)) continue; // one tensor in the folder
        const module = huggingFaceModule(architecture.family, path)!;
        expect(
          names.some((x) => x.endsWith(`${module}.weight`)),
          path,
        ).toBe(true);
      }
      encoder.dispose();
    }
  });
});

function linears(module: object, path: string): string[] {
  return Object.entries(module).flatMap(([name, value]) => {
    const at = path === '' ? name : `${path}.${name}`;
    if (value instanceof Linear) return [at];
    return value instanceof Module || Array.isArray(value) ? linears(value as object, at) : [];
  });
}

describe('texts among others', () => {
  it('a text without tokens is a zero row and changes no other', async () => {
    const { text } = await openPretrained(join(golden, 'clip'), { towers: ['text'] });
    const texts = (await expectedOf('clip')).texts!;
    const vectors = await valuesOf(
      text!.vectors(sequences([texts[0]!, { ids: [], types: [] }, texts[3]!]), evaluation),
    );
    const alone = await valuesOf(text!.vectors(sequences([texts[3]!]), evaluation));
    expect([...vectors.slice(32, 64)]).toEqual(new Array(32).fill(0));
    expect(worstDifference(vectors.slice(64), alone)).toBeLessThan(1e-6);
    text!.dispose();
  });
});

describe('a folder written back', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'galago-pretrained-'));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  it.each(['siglip', 'bert_prefixed'] as const)(
    '%s: same names, shapes and values; what is not ours is copied',
    async (name) => {
      const opened = await openPretrained(join(golden, name));
      const target = join(root, name);
      const changed = (opened.text ?? opened.image)!.state().get('blocks.1.up.weight')!;
      const before = await valuesOf(changed);
      assign(
        changed,
        Float32Array.from(before, (x) => x + 1),
      );
      await savePretrained(target, opened.weights, opened);
      const again = await openPretrained(target);
      expect([...again.weights.tensors.keys()].sort()).toEqual([...opened.weights.tensors.keys()].sort());
      for (const [key, { shape }] of opened.weights.tensors)
        expect(again.weights.tensors.get(key)!.shape, key).toEqual(shape);
      for (const tower of ['text', 'image'] as const) {
        const old = opened[tower]?.state() ?? new Map<string, Tensor>();
        for (const [path, x] of old)
          expect(await valuesOf(again[tower]!.state().get(path)!), path).toEqual(await valuesOf(x));
      }
      const files = (await readdir(target)).sort();
      expect(files).toContain('model.safetensors');
      if (name === 'siglip') expect(files).toContain('preprocessor_config.json');
      await expect(savePretrained(target, opened.weights, opened)).rejects.toThrow(/EEXIST|exists/);
      for (const encoders of [opened, again]) dispose(encoders);
    },
  );
});

function dispose({ text, image }: PretrainedEncoders): void {
  text?.dispose();
  image?.dispose();
}

describe('F08: wrong folders are refused', () => {
  let root: string;
  let count = 0;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'galago-pretrained-'));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  /** A copy of a golden folder, changed. */
  async function copyOf(
    name: (typeof folders)[number],
    change: (folder: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<string> {
    const folder = join(root, `${count++}`);
    await cp(join(golden, name), folder, { recursive: true });
    await change(folder);
    return folder;
  }

  const json = (folder: string, file: string, change: (value: Record<string, unknown>) => void): Promise<void> =>
    readFile(join(folder, file), 'utf8').then((text) => {
      const value = JSON.parse(text) as Record<string, unknown>;
      change(value);
      return writeFile(join(folder, file), JSON.stringify(value));
    });

  async function tensors(folder: string, change: (tensors: Map<string, HostTensor>) => void): Promise<void> {
    const file = join(folder, 'model.safetensors');
    const held = new Map(await readSafetensors(file));
    change(held);
    await writeFile(file, safetensorsBytes(held));
  }

  const index = 'model.safetensors.index.json';

  async function refusal(folder: string): Promise<ModelFileError> {
    const error = await openPretrained(folder).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(ModelFileError);
    return error as ModelFileError;
  }

  it('missing, extra and mismatched tensors in one error', async () => {
    const zeros = (...shape: number[]) => hostTensor('F32', shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));
    const folder = await copyOf('bert', (path) =>
      tensors(path, (held) => {
        held.delete('encoder.layer.1.output.dense.weight');
        held.delete('embeddings.LayerNorm.bias');
        held.set('encoder.layer.0.intermediate.dense.bias', zeros(47));
        held.set('encoder.layer.2.output.dense.bias', zeros(32));
        held.set('pooler.dense.bias', hostTensor('I32', [32], new Int32Array(32)));
      }),
    );
    const error = await refusal(folder);
    expect(error.fields['rule']).toBe(16);
    expect((error.fields['differences'] as string[]).sort()).toEqual([
      'encoder.layer.0.intermediate.dense.bias: expected (48) but received (47)',
      'extra encoder.layer.2.output.dense.bias (32)',
      'missing bert.embeddings.LayerNorm.bias (32)',
      'missing bert.encoder.layer.1.output.dense.weight (32, 48)',
      'pooler.dense.bias: expected F32, F16, BF16 but received I32',
    ]);
    for (const line of error.fields['differences'] as string[]) expect(error.message).toContain(line);
  });

  it('a tensor twice, a value that is not finite', async () => {
    const folder = await copyOf('bert', (path) =>
      tensors(path, (held) => {
        held.set('bert.pooler.dense.bias', held.get('pooler.dense.bias')!);
      }),
    );
    expect((await refusal(folder)).message).toContain(
      'bert.pooler.dense.bias and pooler.dense.bias are the same tensor',
    );
    const nan = await copyOf('bert', (path) =>
      tensors(path, (held) => {
        held.set('pooler.dense.bias', hostTensor('F32', [32], new Float32Array(32).fill(Number.NaN)));
      }),
    );
    expect((await refusal(nan)).fields['rule']).toBe(17);
  });

  it('a truncated file, a missing shard, a shard that the index does not know', async () => {
    const truncated = await copyOf('vit', async (path) => {
      const file = join(path, 'model.safetensors');
      await writeFile(file, (await readFile(file)).subarray(0, -5));
    });
    expect((await refusal(truncated)).fields['rule']).toBe(8);
    const missing = await copyOf('bert_prefixed', (path) => rm(join(path, 'model-00002-of-00002.safetensors')));
    expect((await refusal(missing)).message).toContain('model-00002-of-00002.safetensors are not in');
    const moved = await copyOf('bert_prefixed', (path) =>
      json(path, index, ({ weight_map: map }) => {
        delete (map as Record<string, unknown>)['bert.embeddings.LayerNorm.beta'];
      }),
    );
    expect((await refusal(moved)).message).toContain('holds bert.embeddings.LayerNorm.beta');
  });

  it('F15: an index that names a file outside of the folder', async () => {
    for (const place of ['../elsewhere.safetensors', '/etc/model.safetensors', 'a\\b.safetensors', 'model.bin', 7]) {
      const outside = await copyOf('bert_prefixed', (path) =>
        json(path, index, ({ weight_map: map }) => {
          (map as Record<string, unknown>)['bert.embeddings.LayerNorm.beta'] = place;
        }),
      );
      expect((await refusal(outside)).message).toContain(`says ${JSON.stringify(place)}`);
    }
  });

  it('pickles by name, a folder without weights, without config.json, nothing at all', async () => {
    const bin = await copyOf('vit', (path) => rename(join(path, 'model.safetensors'), join(path, 'pytorch_model.bin')));
    const error = await refusal(bin);
    expect(error.fields['rule']).toBe(19);
    expect(error.message).toContain('pytorch_model.bin');
    expect((await refusal(join(bin, 'pytorch_model.bin'))).fields['rule']).toBe(19);
    const none = await copyOf('vit', (path) => rm(join(path, 'model.safetensors')));
    expect((await refusal(none)).message).toContain('found neither');
    const bare = await copyOf('vit', (path) => rm(join(path, 'config.json')));
    expect((await refusal(bare)).message).toContain('expected config.json');
    expect((await refusal(join(root, 'nowhere'))).message).toContain('found nothing');
    const broken = await copyOf('vit', (path) => writeFile(join(path, 'config.json'), '{'));
    expect((await refusal(broken)).message).toContain('expected JSON');
  });

  it.each([
    ['bert', 'model_type', 'mpnet', /model_type to be one of bert, roberta, .* but received "mpnet"/],
    [
      'bert',
      'position_embedding_type',
      'relative_key',
      /position_embedding_type to be "absolute" but received "relative_key"/,
    ],
    ['bert', 'is_decoder', true, /is_decoder to be false but received true/],
    ['bert', 'add_cross_attention', true, /add_cross_attention/],
    ['bert', 'hidden_act', 'mish', /hidden_act to be one of gelu, .* but received "mish"/],
    ['bert', 'num_attention_heads', 5, /num_attention_heads to be a divisor of hidden_size 32 but received 5/],
    ['bert', 'num_hidden_layers', '2', /num_hidden_layers to be an integer/],
    ['roberta', 'max_position_embeddings', 2, /max_position_embeddings to be above 2 but received 2/],
    ['vit', 'qkv_bias', false, /qkv_bias to be true but received false/],
    ['vit', 'num_channels', 1, /num_channels to be 3 but received 1/],
    ['vit', 'patch_size', 5, /patch_size to be a divisor of image_size 16 but received 5/],
    ['clip', 'text_config_dict', { hidden_size: 64 }, /text_config_dict to be like text_config but received/],
    ['clip', 'text_config', [], /text_config to be an object/],
    [
      'clip',
      'vision_config',
      { hidden_size: 32, num_attention_heads: 4, image_size: 16, patch_size: 8, hidden_act: 'x' },
      /vision_config\.hidden_act/,
    ],
  ] as const)('%s: config.json with %s = %j', async (name, key, value, says) => {
    const folder = await copyOf(name, (path) =>
      json(path, 'config.json', (config) => {
        config[key] = value;
      }),
    );
    expect((await refusal(folder)).message).toMatch(says);
  });

  it.each([
    ['vit', 'size', { height: 16, width: 24 }, /size to be equal height and width/],
    ['vit', 'size', 32, /size to be 16, the image_size of config.json but received 32/],
    ['vit', 'image_mean', [0.5], /image_mean to be three finite numbers/],
    ['vit', 'image_std', [0.5, 0, 0.5], /image_std to be three positive numbers/],
    ['vit', 'rescale_factor', 1, /rescale_factor to be 1\/255/],
    ['vit', 'do_rescale', false, /do_rescale to be true but received false/],
    ['clip', 'crop_size', 8, /crop_size to be 16/],
  ] as const)('%s: preprocessor_config.json with %s = %j', async (name, key, value, says) => {
    const folder = await copyOf(name, (path) =>
      json(path, 'preprocessor_config.json', (config) => {
        config[key] = value;
      }),
    );
    expect((await refusal(folder)).message).toMatch(says);
  });

  it('pictures without preprocessor_config.json', async () => {
    const folder = await copyOf('clip', (path) => rm(join(path, 'preprocessor_config.json')));
    expect((await refusal(folder)).message).toContain('expected preprocessor_config.json');
    const { text } = await openPretrained(folder, { towers: ['text'] });
    text!.dispose();
  });
});
