import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveCheckpoint } from '../../src/io/checkpoint.js';
import { encodeNpy } from '../../src/io/npy.js';
import { hostTensor, safetensorsBytes } from '../../src/io/safetensors.js';
import { captured, lastJson } from './captured.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galago-inspect-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('inspect', () => {
  it('lists the tensors of a safetensors file', async () => {
    const path = join(folder, 'a.safetensors');
    const tensors = new Map([
      ['w', hostTensor('F32', [2, 3], new Float32Array(6))],
      ['step', hostTensor('I64', [], new BigInt64Array([7n]))],
    ]);
    writeFileSync(path, safetensorsBytes(tensors));
    const { exitCode, stdout } = await captured(['inspect', path, '--json']);
    expect(exitCode).toBe(0);
    expect(stdout).toContain('2 tensors, 7 values, 32 B\n');
    expect(stdout).toMatch(/^w +F32 +\(2, 3\) +24 B$/m);
    expect(lastJson(stdout)).toMatchObject({
      verb: 'inspect',
      kind: 'safetensors',
      tensors: [
        { name: 'w', dtype: 'F32', shape: [2, 3], bytes: 24 },
        { name: 'step', dtype: 'I64', shape: [], bytes: 8 },
      ],
    });
  });

  it('passes on what the reader says about a broken file', async () => {
    const path = join(folder, 'short.safetensors');
    writeFileSync(path, Buffer.from([1, 2, 3]));
    const { exitCode, stderr } = await captured(['inspect', path]);
    expect(exitCode).toBe(65);
    expect(stderr).toContain('short.safetensors');
  });

  it('shows a configuration with origins and overrides', async () => {
    const path = join(folder, 'c.yaml');
    writeFileSync(path, 'train:\n  epochs: 2\n');
    const { exitCode, stdout } = await captured(['inspect', path, '--train.seed=3']);
    expect(exitCode).toBe(0);
    expect(stdout).toContain(`epochs: 2 # ${path}:2\n`);
    expect(stdout).toContain('seed: 3 # command line\n');
    const wrong = await captured(['inspect', path, '--train.sed=3']);
    expect(wrong).toMatchObject({
      exitCode: 78,
      stderr: 'config: unknown key train.sed (command line); nearest is train.seed\n',
    });
  });

  it('counts the FLOPs of one step of a configuration', async () => {
    const path = join(folder, 'flops.yaml');
    writeFileSync(path, 'data: { shop: { items: 40, users: 20, sessions: 240 } }\ntrain: { train_batch_size: 8 }\n');
    const { exitCode, stdout } = await captured(['inspect', path, '--flops', '--json']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^module +parameters +forward +backward +share +elementwise$/m);
    expect(stdout).toMatch(/^content\.text +[\d.]+k +[\d.]+[MG] +[\d.]+[MG] +[\d.]+ % +[\d.]+[kM]$/m);
    expect(stdout).toMatch(/^sum .* 100\.0 %/m);
    expect(stdout).toMatch(/^one step of 48 rows with \d+ different items: [\d.]+[MG] FLOPs, [\d.]+G per 2,048 rows$/m);
    expect(lastJson(stdout)).toMatchObject({ verb: 'inspect', kind: 'flops', rows: 48 });
    expect(await captured(['inspect', folder, '--flops'])).toMatchObject({
      exitCode: 78,
      stderr: `inspect: expected a .yaml or .json configuration with --flops but received ${folder}\n`,
    });
  });

  it('describes a data file of another format', async () => {
    const path = join(folder, 'events.csv');
    writeFileSync(path, 'user_id,item_id,timestamp\n7305112233445566778,a,10\n7305112233445566778,b,10\n1,a,12\n');
    const { exitCode, stdout } = await captured(['inspect', path, '--json']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^ {2}user_id +int64 +0 +2 +1 /m);
    expect(lastJson(stdout)).toMatchObject({
      kind: 'data',
      stem: 'events.csv',
      interactions: { users: 2, items: 2, repeated_pairs: 0, events_with_tied_time: 2 },
    });
  });

  it('describes a data folder', async () => {
    const data = join(folder, 'shop');
    mkdirSync(data);
    const events = ['u1\ta\t3\t10', 'u1\tb\t5\t10', 'u1\ta\t1\t12', 'u2\tc\t4\t9'];
    writeFileSync(
      join(data, 'shop.inter'),
      `user_id:token\titem_id:token\trating:float\ttimestamp:float\n${events.join('\n')}\n`,
    );
    writeFileSync(join(data, 'shop.item'), 'item_id:token\ttitle:token_seq\na\tred lamp\nb\t\nd\ta b c d\n');
    writeFileSync(join(data, 'shop.net'), '');
    const { exitCode, stdout } = await captured(['inspect', data, '--json']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^ {2}rating +float +0 +1 +5$/m);
    expect(stdout).toMatch(/^ {2}title +token_seq +1 +2 +2 +4 +4$/m);
    expect(stdout).toContain('not read: shop.net\n');
    expect(lastJson(stdout)).toMatchObject({
      kind: 'data',
      stem: 'shop',
      interactions: {
        users: 2,
        items: 3,
        repeated_pairs: 1,
        events_with_tied_time: 2,
        items_without_description: 1,
        items_without_events: 1,
      },
    });
    const named = await captured(['inspect', join(data, 'shop'), '--data.user_id=nobody', '--json']);
    expect(lastJson(named.stdout)).toMatchObject({ stem: 'shop', interactions: null });
    mkdirSync(join(folder, 'empty'));
    expect((await captured(['inspect', join(folder, 'empty')])).exitCode).toBe(65);
  });

  it('describes MMRec data: items are the rows of the vectors', async () => {
    const data = join(folder, 'baby');
    mkdirSync(data);
    writeFileSync(
      join(data, 'baby.inter'),
      'userID\titemID\ttimestamp\tx_label\n7\t0\t10\t0\n7\t2\t11\t1\n8\t2\t9\t0\n',
    );
    const vectors = encodeNpy({ dtype: 'float64', shape: [4, 3], data: new Float64Array(12) });
    writeFileSync(join(data, 'image_feat.npy'), vectors);
    const { exitCode, stdout } = await captured(['inspect', data, '--json']);
    expect(exitCode).toBe(0);
    expect(stdout).toContain('image_feat.npy: 4 x 3 float64\n');
    expect(stdout).not.toContain('baby.item');
    expect(lastJson(stdout)).toMatchObject({
      stem: 'baby',
      interactions: { users: 2, items: 2, items_without_events: 2 },
      vectors: [{ file: 'image_feat.npy', shape: [4, 3], dtype: 'float64' }],
    });
    // a list says whose the vectors are: as in training, item numbers may go beyond their rows
    writeFileSync(
      join(data, 'image_feat.npy'),
      encodeNpy({ dtype: 'float32', shape: [2, 1], data: new Float32Array(2) }),
    );
    expect((await captured(['inspect', data])).exitCode).toBe(65);
    writeFileSync(join(data, 'ids.txt'), '0\n2\n');
    expect((await captured(['inspect', data])).exitCode).toBe(0);
    writeFileSync(join(data, 'image_feat.npy'), encodeNpy({ dtype: 'float32', shape: [2], data: new Float32Array(2) }));
    const flat = await captured(['inspect', data]);
    expect([flat.exitCode, flat.stderr]).toEqual([65, expect.stringContaining('vectors of shape (rows, width)')]);
  });

  it('F14: says where pictures are, how many decode, and why the others do not', async () => {
    const data = join(folder, 'pictures');
    mkdirSync(join(data, 'images'), { recursive: true });
    writeFileSync(join(data, 'pictures.inter'), 'user_id:token\titem_id:token\nu1\ta\n');
    writeFileSync(join(data, 'pictures.item'), 'item_id:token\na\nb\nc\nd\n');
    const background = { r: 9, g: 8, b: 7 };
    const picture = await sharp({ create: { width: 9, height: 7, channels: 3, background } })
      .png()
      .toBuffer();
    const files = { 'a.jpg': picture, 'b.png': picture.subarray(0, 50), 'c.jpg': Buffer.from('<html>') };
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(data, 'images', name), bytes);
    const { exitCode, stdout } = await captured(['inspect', data, '--json', '--image.on_bad_image=skip']);
    expect(exitCode).toBe(0);
    expect(stdout).toContain('pictures: a folder of files; 3 of 4 items have one\n');
    expect(stdout).toContain('  3 of 3 tried: 1 decode, 1 unsupported format, 1 corrupt\n');
    expect(stdout).toMatch(/^ {2}b\.png: image: the decoder says/m);
    expect(stdout).toContain('  on_bad_image skip, max_bad_fraction 0.01\n');
    const packed = pack();
    for (const [name, bytes] of Object.entries(files)) packed.entry({ name }, bytes);
    packed.finalize();
    const chunks: Buffer[] = [];
    for await (const chunk of packed) chunks.push(chunk as Buffer);
    const tar = join(folder, 'pictures.tar');
    writeFileSync(tar, Buffer.concat(chunks));
    const shards = await captured(['inspect', data, '--json', `--data.image_root=${tar}`, '--pictures']);
    expect(shards.stdout).toContain('pictures: 1 tar shard, 3 pictures; 3 of 4 items have one\n');
    expect(lastJson(shards.stdout)).toMatchObject({
      pictures: { kind: 'tar', tried: 3, decoded: 1, bad: { unsupported_format: 1, corrupt: 1 }, on_bad_image: 'mask' },
    });
    const wrong = await captured(['inspect', data, `--data.image_root=${join(data, 'pictures.item')}`]);
    expect(wrong.exitCode).toBe(78);
    expect(wrong.stderr).toContain('expected pictures, tar shards or an LMDB at');
  });

  it('checks a checkpoint, and lists those of a run', async () => {
    const run = join(folder, 'run');
    const dir = join(run, 'checkpoints');
    const tensors = { dense: new Map([['w', hostTensor('F32', [2], new Float32Array([1, 2]))]]) };
    mkdirSync(run);
    for (const step of [1, 2])
      await saveCheckpoint({ dir, step, tensors, score: step / 4, digests: { config: 'abc' } });
    const one = await captured(['inspect', join(dir, 'step-2'), '--json']);
    expect(one.stdout).toContain('step 2, score 0.5');
    expect(lastJson(one.stdout)).toMatchObject({
      kind: 'checkpoint',
      step: 2,
      digests: { config: 'abc' },
      files: ['dense.safetensors'],
    });
    const all = await captured(['inspect', run, '--json']);
    expect(lastJson(all.stdout)).toMatchObject({
      kind: 'run',
      checkpoints: [{ name: 'step-2', score: 0.5 }, { name: 'step-1' }],
    });
    truncateSync(join(dir, 'step-1', 'dense.safetensors'), 3);
    expect((await captured(['inspect', join(dir, 'step-1')])).exitCode).toBe(65);
  });

  it('refuses what it does not know', async () => {
    expect((await captured(['inspect'])).stderr).toBe('inspect: expected one path but received 0\n');
    expect((await captured(['inspect', join(folder, 'none')])).stderr).toMatch(/none does not exist\n$/);
    const path = join(folder, 'x.bin');
    writeFileSync(path, '');
    expect((await captured(['inspect', path])).exitCode).toBe(78);
  });
});
