import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ModelFileError, StorageError } from '../../src/errors.js';
import { type PeftAdapter, peftFiles, readPeft, writePeft } from '../../src/io/peft.js';
import { hostTensor, readSafetensors, safetensorsBytes, viewAs } from '../../src/io/safetensors.js';

/** Made by `write_adapter.py` in it, not by our writer. */
const sample = fileURLToPath(new URL('peft', import.meta.url));

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-peft-'));
  for (const name of Object.values(peftFiles)) await cp(join(sample, name), join(folder, name));
});
afterEach(() => rm(folder, { recursive: true }));

/** Changes the configuration of the copy. */
async function change(values: Record<string, unknown>): Promise<void> {
  const path = join(folder, peftFiles.config);
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...config, ...values }));
}

describe('a PEFT folder', () => {
  it('gives rank, alpha, targets and the matrices by module', async () => {
    const adapter = await readPeft(folder);
    expect(adapter).toMatchObject({ rank: 2, alpha: 16, dropout: 0, targets: ['value', 'query'] });
    expect([...adapter.layers.keys()]).toEqual(['blocks.0.attention.query', 'blocks.0.attention.value']);
    const { a, b } = adapter.layers.get('blocks.0.attention.value')!;
    expect([a.shape, b.shape]).toEqual([
      [2, 8],
      [8, 2],
    ]);
    expect([...viewAs(a, 'F32')].slice(0, 2)).toEqual([-12 / 64, -5 / 64]);
    expect([...viewAs(b, 'F32')].slice(0, 2)).toEqual([-3 / 64, 2 / 64]);
  });

  it('is written back to the same bytes', async () => {
    const copy = join(folder, 'copy');
    await writePeft(copy, await readPeft(folder));
    for (const name of Object.values(peftFiles))
      expect((await readFile(join(copy, name))).equals(await readFile(join(sample, name)))).toBe(true);
  });

  it('of our own comes back to the same bytes, in 16 bits too', async () => {
    const adapter: PeftAdapter = {
      rank: 1,
      alpha: 0.5,
      dropout: 0.1,
      targets: '.*\\.up',
      layers: new Map([
        [
          'blocks.0.up',
          {
            a: hostTensor('BF16', [1, 3], Uint16Array.of(0x3f80, 0, 0xbf80)),
            b: hostTensor('F16', [2, 1], Uint16Array.of(0x3c00, 0)),
          },
        ],
      ]),
    };
    const [first, second] = [join(folder, 'first'), join(folder, 'second')];
    await writePeft(first, adapter);
    const read = await readPeft(first);
    expect(read).toMatchObject({ rank: 1, alpha: 0.5, dropout: 0.1, targets: '.*\\.up' });
    expect(read.layers).toEqual(adapter.layers);
    await writePeft(second, read);
    for (const name of Object.values(peftFiles))
      expect((await readFile(join(second, name))).equals(await readFile(join(first, name)))).toBe(true);
    const config = JSON.parse(await readFile(join(first, peftFiles.config), 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({ peft_type: 'LORA', bias: 'none', fan_in_fan_out: false, r: 1, lora_alpha: 0.5 });
    expect([...(await readSafetensors(join(first, peftFiles.model))).keys()]).toEqual([
      'base_model.model.blocks.0.up.lora_A.weight',
      'base_model.model.blocks.0.up.lora_B.weight',
    ]);
  });

  it.each([
    ['use_dora', true],
    ['use_rslora', true],
    ['rank_pattern', { query: 4 }],
    ['alpha_pattern', { query: 4 }],
    ['modules_to_save', ['classifier']],
    ['bias', 'lora_only'],
    ['fan_in_fan_out', true],
    ['lora_bias', true],
    ['layers_to_transform', [0]],
    ['exclude_modules', ['key']],
    ['init_lora_weights', 'pissa'],
    ['peft_type', 'IA3'],
    ['an_option_of_tomorrow', 1],
  ])('F08: that asks for %s is refused by that name', async (key, value) => {
    await change({ [key]: value });
    await expect(readPeft(folder)).rejects.toMatchObject({
      name: 'ModelFileError',
      message: expect.stringContaining(`${key} ${JSON.stringify(value)}`) as string,
      fields: { options: [`${key} ${JSON.stringify(value)}`] },
    });
  });

  it('F08: names every such option in one error', async () => {
    await change({ use_dora: true, bias: 'all', modules_to_save: ['head'] });
    await expect(readPeft(folder)).rejects.toMatchObject({
      fields: { options: ['bias "all"', 'modules_to_save ["head"]', 'use_dora true'] },
    });
  });

  it.each([
    [{ r: 0 }, 'expected r to be an integer above 0 but received 0'],
    [{ r: '2' }, 'expected r to be an integer above 0 but received "2"'],
    [{ r: 3 }, 'expected shape (r=3, in) but received (2, 8)'],
    [{ lora_alpha: null }, 'expected lora_alpha to be a number but received null'],
    [{ lora_dropout: 1 }, 'expected lora_dropout to be a number in [0, 1) but received 1'],
    [{ target_modules: [] }, 'expected target_modules to be names or a pattern but received []'],
  ])('F08: %j is refused', async (values, message) => {
    await change(values);
    await expect(readPeft(folder)).rejects.toThrow(message);
  });

  it('F08: with other, missing or misshapen tensors is refused with all of them', async () => {
    const zeros = (shape: readonly number[]) =>
      hostTensor('F32', shape, new Float32Array(shape.reduce((x, y) => x * y, 1)));
    const tensors = new Map([
      ['base_model.model.up.lora_A.weight', zeros([2, 8])],
      ['base_model.model.word.lora_embedding_A', zeros([2, 8])],
      ['base_model.model.down.lora_A.weight', zeros([2, 8, 1, 1])],
      ['base_model.model.down.lora_B.weight', zeros([8, 2])],
    ]);
    await writeFile(join(folder, peftFiles.model), safetensorsBytes(tensors));
    const failed = await readPeft(folder).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(ModelFileError);
    expect((failed as ModelFileError).fields['differences']).toEqual([
      'base_model.model.word.lora_embedding_A is no lora_A.weight or lora_B.weight of base_model.model.<module>',
      'base_model.model.down.lora_A.weight: expected shape (r=2, in) but received (2, 8, 1, 1)',
      'base_model.model.up has no lora_B.weight',
    ]);
  });

  it('F09: cut at any byte is refused', async () => {
    for (const name of Object.values(peftFiles)) {
      const whole = await readFile(join(sample, name));
      for (let length = 0; length < whole.length; length += name === peftFiles.config ? 1 : 7) {
        await writeFile(join(folder, name), whole.subarray(0, length));
        await expect(readPeft(folder)).rejects.toThrow(ModelFileError);
      }
      await writeFile(join(folder, name), whole);
    }
  });

  it('F08: with NaN or infinity is refused', async () => {
    const values = Float32Array.of(Number.NaN, 0);
    const tensors = new Map([
      ['base_model.model.up.lora_A.weight', hostTensor('F32', [2, 1], values)],
      ['base_model.model.up.lora_B.weight', hostTensor('F32', [1, 2], values)],
    ]);
    await writeFile(join(folder, peftFiles.model), safetensorsBytes(tensors));
    await expect(readPeft(folder)).rejects.toMatchObject({ fields: { rule: 17 } });
  });

  it('that is not there is the file system’s error, and nothing is written for a broken adapter', async () => {
    await expect(readPeft(join(folder, 'none'))).rejects.toThrow(StorageError);
    const adapter = await readPeft(folder);
    await expect(writePeft(join(folder, 'wrong'), { ...adapter, rank: 3 })).rejects.toThrow(ModelFileError);
    await expect(readFile(join(folder, 'wrong', peftFiles.config))).rejects.toThrow('ENOENT');
  });
});
