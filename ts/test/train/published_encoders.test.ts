/** Published encoders in models, by configuration: `model.encoder.weights` and `model.encoder.image.weights`. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backward } from '../../src/autograd.js';
import { datasetFromShop } from '../../src/data/load_dataset.js';
import { generateShop } from '../../src/data/shop/shop.js';
import { wordPieceFromVocabulary } from '../../src/data/text/tokenizer.js';
import { ArgumentError, ConfigError, ExportMismatchError, ModelFileError } from '../../src/errors.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { em3 } from '../../src/models/em3.js';
import type { RecommenderModel } from '../../src/models/model.js';
import { fillEncoders, openPretrained, readPretrained } from '../../src/models/pretrained.js';
import { exportRun } from '../../src/serve/export_run.js';
import { ItemEncoder } from '../../src/serve/item_encoder.js';
import { tidy } from '../../src/tidy.js';
import { initialModel } from '../../src/train/build_model.js';
import { type ConfigInput, resolveConfig } from '../../src/train/config.js';
import { layoutFor } from '../../src/train/published_encoders.js';
import { runData, trainRun } from '../../src/train/run.js';
import { randomEncoderFolder, randomEncoderFolders, vocabulary } from '../models/random_encoder_folder.js';
import { batches, Steps } from '../models/tiny_em3.js';
import { testDevices } from '../test_devices.js';
import { valuesOf } from '../values.js';
import { tinyShop } from './tiny_shop.js';

const folder = randomEncoderFolders();

type ModelInput = NonNullable<ConfigInput['model']>;

function config(model: ModelInput, rest: ConfigInput = {}) {
  const { encoder, ...others } = model;
  return resolveConfig({
    object: {
      data: { shop: tinyShop },
      model: {
        ...others,
        encoder: { width: 16, heads: 2, ffn: 24, ...encoder },
        fusion: { width: 16, heads: 2, queries: 2, layers: 1, ffn: 0, dropout: 0, ...others.fusion },
      },
      ...rest,
      train: { epochs: 1, train_batch_size: 24, ...rest.train },
    },
  });
}

/** Losses of `count` steps on a batch of the data. */
async function lossesOf(
  model: RecommenderModel,
  data: Awaited<ReturnType<typeof runData>>,
  count: number,
): Promise<number[]> {
  const [batch] = await batches(data, 1);
  using steps = new Steps(model, { dense: 0.003, encoder: 0.003 });
  const losses: number[] = [];
  for (let i = 0; i < count; i++) {
    const bytes = await steps.take(batch!);
    losses.push(Buffer.from(bytes, 'hex').readFloatLE());
  }
  return losses;
}

describe('a model with published encoders', () => {
  it.each<[string, () => ModelInput]>([
    ['em3, one CLIP folder for texts and pictures', () => ({ encoder: { weights: folder('clip') } })],
    [
      'em3, one SigLIP folder, one token per modality',
      () => ({ encoder: { weights: folder('siglip') }, fusion: { mode: 'exact' } }),
    ],
    ['em3, BERT and ViT', () => ({ encoder: { weights: folder('bert'), image: { weights: folder('vit') } } })],
    ['em3, RoBERTa, pictures of our own', () => ({ encoder: { weights: folder('roberta') } })],
    ['lemur, CLIP', () => ({ name: 'lemur', encoder: { weights: folder('clip') } })],
    [
      'lemur, texts of our own, SigLIP pictures',
      () => ({ name: 'lemur', encoder: { image: { weights: folder('siglip') } } }),
    ],
  ])('%s: trains and its loss falls', async (_, model) => {
    const { config: resolved } = config(model());
    await using data = await runData(resolved);
    using built = await initialModel(resolved, data.schema);
    const { text, image } = built.pretrained!;
    expect(text !== null || image !== null).toBe(true);
    const losses = await lossesOf(built, data, 20);
    expect(losses.at(-1)!).toBeLessThan(0.8 * losses[0]!);
  });

  it.each(testDevices.filter((device) => device !== 'cpu'))('CLIP on %s: the losses of the CPU', async (device) => {
    const { config: resolved } = config({ encoder: { weights: folder('clip') } });
    await using data = await runData(resolved);
    using ours = await initialModel(resolved, data.schema, 'cpu');
    using there = await initialModel(resolved, data.schema, device);
    const [expected, received] = [await lossesOf(ours, data, 3), await lossesOf(there, data, 3)];
    expect(received[2]!).toBeLessThan(received[0]!);
    received.forEach((loss, i) => expect(Math.abs(loss - expected[i]!)).toBeLessThan(1e-3));
  });

  it('starts from the weights of the folder', async () => {
    const { config: resolved } = config({ encoder: { weights: folder('clip') } });
    await using data = await runData(resolved);
    using built = await initialModel(resolved, data.schema);
    const opened = await openPretrained(folder('clip'));
    for (const tower of ['text', 'image'] as const)
      for (const [path, x] of built.pretrained![tower]!.state())
        expect(await valuesOf(x), path).toEqual(await valuesOf(opened[tower]!.state().get(path)!));
    opened.text!.dispose();
    opened.image!.dispose();
  });

  it('takes tokenizer, layout of texts, size, fit and normalisation from the folder', async () => {
    const { config: resolved, originOf } = config({ encoder: { weights: folder('clip') } });
    expect(resolved.text.tokenizer).toBe(folder('clip'));
    expect(originOf('text.tokenizer')).toBe('defaults of the encoder weights');
    expect(
      config({ encoder: { weights: folder('bert') } }, { text: { tokenizer: 'word' } }).config.text.tokenizer,
    ).toBe('word');
    await using data = await runData(resolved);
    const [cls, sep] = [vocabulary.indexOf('[CLS]'), vocabulary.indexOf('[SEP]')];
    const { tokens, offsets } = data.columns.itemText!;
    const first = Array.from(tokens.subarray(offsets[0], offsets[1]));
    expect([first[0], first.at(-1), first.filter((id) => id === sep).length]).toEqual([cls, sep, 1]);
    await using padded = await runData(config({ encoder: { weights: folder('siglip') } }).config);
    const { offsets: bounds } = padded.columns.itemText!;
    expect(bounds[1]! - bounds[0]!).toBe(24);
    await using closed = await runData(config({ encoder: { weights: folder('bert') } }).config);
    const store = closed.columns.itemText!;
    const text = Array.from(store.tokens.subarray(store.offsets[0], store.offsets[1]));
    expect([text.at(-1), text.filter((id) => id === sep).length]).toEqual([sep, 2]);
  });

  it.each<[number | 'all', RegExp]>([
    [0, /^$/],
    [1, /^blocks\.1\./],
    ['all', /./],
  ])('tune_layers %s: what trains, has a gradient and optimizer state', async (tune, trains) => {
    const { config: resolved } = config({ encoder: { weights: folder('clip'), tune_layers: tune } });
    await using data = await runData(resolved);
    using built = await initialModel(resolved, data.schema);
    const [batch] = await batches(data, 1);
    tidy(() => backward(built.graph(batch!, { training: true, step: 1, stage: 'ranker' }).loss));
    using steps = new Steps(built);
    const state = steps.optimizer.state();
    for (const tower of ['text', 'image'] as const)
      for (const [path, x] of built.pretrained![tower]!.state()) {
        const name = `content.${tower}.${path}`;
        // CLIP normalises the class token alone behind the last block: nothing reads that norm where tokens are fused.
        const expected = trains.test(path) && !(tower === 'image' && path.startsWith('norm.'));
        expect([x.grad !== null, state.has(`${name}.v`)], name).toEqual([expected, expected]);
      }
    const trained = [...built.groups().encoder.keys()];
    expect(trained.some((name) => name.startsWith('content.fusion.project'))).toBe(true);
    const before = await valuesOf(built.pretrained!.text!.state().get('blocks.0.up.weight')!);
    await steps.take(batch!);
    const after = await valuesOf(built.pretrained!.text!.state().get('blocks.0.up.weight')!);
    expect(before.every((x, i) => x === after[i])).toBe(tune !== 'all');
  });

  it('low-rank updates go by the names of the folder, by default to queries and values, and train alone', async () => {
    const lora = { rank: 2 };
    const { config: resolved } = config({ encoder: { weights: folder('clip'), lora } });
    await using data = await runData(resolved);
    using built = await initialModel(resolved, data.schema);
    for (const [tower, module] of [
      ['text', 'text_model'],
      ['image', 'vision_model'],
    ] as const)
      expect([...built.adapters.get(tower)!.layers.keys()].sort()).toEqual(
        [0, 1].flatMap((i) => ['q_proj', 'v_proj'].map((name) => `${module}.encoder.layers.${i}.self_attn.${name}`)),
      );
    const trained = [...built.pretrained!.text!.parameters().keys()];
    expect(trained.length).toBe(8);
    for (const name of trained) expect(name).toMatch(/\.lora\.[ab]$/);
    const losses = await lossesOf(built, data, 5);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  });

  it('lemur with frozen encoders trains their fusion alone', async () => {
    const { config: resolved } = config({ name: 'lemur', encoder: { weights: folder('clip'), tune_layers: 0 } });
    await using data = await runData(resolved);
    using built = await initialModel(resolved, data.schema);
    const names = [...built.parameters().keys()].filter((name) => name.startsWith('content.document.'));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) expect(name).toMatch(/^content\.document\.fusion\./);
  });
});

describe('as a library', () => {
  it('weights are read, the model is made of their architectures, and filled', async () => {
    const weights = await readPretrained(folder('clip'));
    const text = { tokenizer: folder('clip'), layout: layoutFor(weights.text!) };
    await using data = await datasetFromShop(generateShop(tinyShop), { text });
    using model = em3(data.schema, { content: { pretrained: { text: weights.text, image: weights.image } } });
    fillEncoders(weights, model.pretrained!);
    const losses = await lossesOf(model, data, 5);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  });
});

describe('a run with published encoders', () => {
  it('is exported with what they are made of, encodes new items without the folder, and is written back as a folder', async () => {
    const source = await randomEncoderFolder(folder('moved'), 'clip');
    const run = folder('run');
    const out = folder('export');
    const resolved = config({ encoder: { weights: source } });
    const result = await trainRun(resolved, { runDir: run });
    const weights = await readPretrained(source);
    await exportRun({ run, out: folder('tuned'), to: ['hf'] });
    const tuned = await readSafetensors(folder('tuned/encoder/model.safetensors'));
    const again = await openPretrained(folder('tuned/encoder'));
    for (const [path, x] of again.text!.state()) {
      if (path.startsWith('head.')) continue;
      expect(await valuesOf(x), path).toEqual(await valuesOf(result.model.pretrained!.text!.state().get(path)!));
    }
    again.text!.dispose();
    again.image!.dispose();
    expect([...tuned.keys()].sort()).toEqual([...weights.tensors.keys()].sort());
    const changed = [...tuned].filter(([name, { data }]) => !Buffer.from(data).equals(weights.tensors.get(name)!.data));
    expect(changed.length).toBeGreaterThan(20);
    result.model.dispose();
    await exportRun({ run, out });
    rmSync(source, { recursive: true });
    for (const name of ['encoder_config/config.json', 'tokenizer/vocab.txt']) {
      const path = join(out, name);
      const whole = readFileSync(path);
      writeFileSync(path, `${whole.toString()} `);
      await expect(ItemEncoder.open(out)).rejects.toThrow(`${name}: expected SHA-256`);
      rmSync(path);
      await expect(ItemEncoder.open(out)).rejects.toThrow(`${name} is missing`);
      await expect(ItemEncoder.open(out)).rejects.toThrow(ExportMismatchError);
      writeFileSync(path, whole);
    }
    using encoder = await ItemEncoder.open(out, { device: 'cpu' });
    const { vectors, text } = await encoder.encode([{ id: 'new', fields: { title: 'premium lamp', tags: 'wool' } }]);
    expect([...text]).toEqual([1]);
    expect(vectors.every(Number.isFinite)).toBe(true);
  });
});

describe('a run with a tokenizer in a file', () => {
  it('whose name is none of a folder is exported so that it opens', async () => {
    const tokenizer = folder('words-2.json');
    writeFileSync(tokenizer, JSON.stringify(wordPieceFromVocabulary(vocabulary.join('\n'), true, tokenizer)));
    const run = folder('tokenized');
    const out = `${run}.export`;
    (await trainRun(config({ modalities: ['text'] }, { text: { tokenizer } }), { runDir: run })).model.dispose();
    await exportRun({ run, out });
    rmSync(tokenizer);
    using encoder = await ItemEncoder.open(out, { device: 'cpu' });
    const { text } = await encoder.encode([{ id: 'new', fields: { title: 'premium lamp' } }]);
    expect([...text]).toEqual([1]);
  });
});

describe('a frozen run', () => {
  it('goes on after an interruption to the same bytes, and its encoders keep those of the folder', async () => {
    const stopped = async (at: number | null, run: string, resume = false) => {
      const stop = new AbortController();
      const resolved = config({ training: 'frozen', encoder: { weights: folder('clip') } });
      const result = await trainRun(resolved, {
        runDir: run,
        resume,
        signal: stop.signal,
        onEvent: (event) => {
          if (event.type === 'step' && event.step === at) stop.abort();
        },
      });
      const text = await valuesOf(result.model.pretrained!.text!.state().get('blocks.1.down.weight')!);
      result.model.dispose();
      return { digest: result.checkpoint!.digest, text };
    };
    const whole = await stopped(null, folder('whole'));
    await stopped(2, folder('parts'));
    const resumed = await stopped(null, folder('parts'), true);
    expect(resumed.digest).toBe(whole.digest);
    const opened = await openPretrained(folder('clip'), { towers: ['text'] });
    expect(whole.text).toEqual(await valuesOf(opened.text!.state().get('blocks.1.down.weight')!));
    opened.text!.dispose();
  });

  it('a model without published encoders has none to write', async () => {
    const run = folder('own');
    (await trainRun(config({ modalities: ['text'] }), { runDir: run })).model.dispose();
    await expect(exportRun({ run, out: folder('none'), to: ['hf'] })).rejects.toThrow(
      /expected a model with encoders of a Hugging Face folder/,
    );
  });
});

describe('what does not fit is refused', () => {
  it('a folder without the encoder, without a tokenizer, texts that are too long, pictures of another size', async () => {
    expect(() => config({ encoder: { weights: folder('vit') } })).toThrow(
      /model\.encoder\.weights: expected a folder with a text encoder but .*vit has none/,
    );
    expect(() => config({ encoder: { image: { weights: folder('bert') } } })).toThrow(
      /model\.encoder\.image\.weights: expected a folder with a picture encoder/,
    );
    expect(() => config({ encoder: { weights: folder('nowhere') } })).toThrow(ModelFileError);
    expect(() => config({ encoder: { weights: folder('bert') } }, { text: { positions: 'per_field' } })).toThrow(
      /text\.positions.*expected global with model\.encoder\.weights/,
    );
    const bare = await randomEncoderFolder(folder('bare'), 'bert');
    rmSync(join(bare, 'vocab.txt'));
    const untokenized = config({ encoder: { weights: bare } }).config;
    await expect(runData(untokenized)).rejects.toThrow(/tokenizer: expected tokenizer\.json or vocab\.txt in/);

    const text = (maxLen: number, size: number | null): ConfigInput => ({
      feature_cols: [
        { name: 'user_id', type: 'categorical' },
        { name: 'item_id', type: 'categorical' },
        { name: 'history', type: 'history', of: 'item_id', max_len: 5 },
        { name: 'title', type: 'text', max_len: maxLen },
        { name: 'picture', type: 'image', size },
      ],
    });
    const long = config({ encoder: { weights: folder('bert') } }, text(30, 32)).config;
    await using data = await runData(long);
    await expect(initialModel(long, data.schema)).rejects.toThrow(ConfigError);
    await expect(initialModel(long, data.schema)).rejects.toThrow(/item texts of at most 24 tokens.*up to 32/);
    const padded = config({ encoder: { weights: folder('siglip') } }, text(30, 32)).config;
    await expect(runData(padded)).rejects.toThrow(ArgumentError);

    // the size of pictures is the encoder's where the configuration says none
    const { config: sized } = config({ encoder: { image: { weights: folder('vit') } } }, text(8, null));
    await using pictures = await runData(sized);
    expect(pictures.schema.features.find(({ type }) => type === 'image')).toMatchObject({ size: 32 });
    const other = await randomEncoderFolder(folder('other'), 'vit');
    for (const file of ['config.json', 'preprocessor_config.json'])
      writeFileSync(join(other, file), readFileSync(join(other, file), 'utf8').replaceAll('32', '64'));
    const wrong = config({ encoder: { image: { weights: other } } }, text(8, 32)).config;
    await expect(initialModel(wrong, pictures.schema)).rejects.toThrow(/feature picture of size 64.*received 32/);
  });
});
