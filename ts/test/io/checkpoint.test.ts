import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import {
  ArgumentError,
  CheckpointAllBadError,
  CheckpointCorruptError,
  CheckpointMismatchError,
  CheckpointNotFoundError,
  StorageError,
} from '../../src/errors.js';
import {
  listCheckpoints,
  loadCheckpoint,
  type SaveOptions,
  saveCheckpoint,
  verifyCheckpoint,
} from '../../src/io/checkpoint.js';
import { type Env, nodeEnv } from '../../src/io/env.js';
import { acquireLock } from '../../src/io/lock.js';
import { BLOCK_BYTES, encodeManifest, MANIFEST, parseManifest } from '../../src/io/manifest.js';
import { hostTensor, viewAs } from '../../src/io/safetensors.js';
import { uniforms } from '../../src/random.js';
import { type Fault, FaultyEnv, Killed } from './faulty_env.js';
import { MemoryEnv } from './memory_env.js';
import { type Loss, PowerLossEnv } from './power_loss_env.js';

const root = mkdtempSync(join(tmpdir(), 'galago-checkpoint-'));
afterAll(() => rmSync(root, { recursive: true }));

let dir = '';
let count = 0;
beforeEach(() => {
  dir = join(root, String(count++), 'checkpoints');
});

/** A small state that is a function of the step. */
function state(step: number): Pick<SaveOptions, 'step' | 'tensors' | 'digests' | 'cursor' | 'state' | 'versions'> {
  return {
    step,
    tensors: {
      dense: new Map([['weight', hostTensor('F32', [2, 2], Float32Array.of(step, 1, 2, 3))]]),
      optimizer: new Map([['weight.m', hostTensor('F32', [2, 2], Float32Array.of(0, step, 0, 0))]]),
    },
    digests: { config: 'c0', data: 'd0' },
    cursor: { epoch: 1, sample: step * 10 },
    state: { seed: 7 },
    versions: { galago: '0.1.0' },
  };
}

const weight = (loaded: Awaited<ReturnType<typeof loadCheckpoint>>) =>
  viewAs(loaded.tensors.dense!.get('weight')!, 'F32')[0];

describe('save and load', () => {
  it('gives back what was saved', async () => {
    const saved = await saveCheckpoint({ dir, ...state(5), score: 0.75 });
    expect(saved).toMatchObject({ name: 'step-5', removed: [], warnings: [] });
    const loaded = await loadCheckpoint({ dir });
    expect(weight(loaded)).toBe(5);
    expect(loaded.tensors.optimizer!.get('weight.m')!.shape).toEqual([2, 2]);
    expect(loaded.manifest).toMatchObject({
      step: 5,
      score: 0.75,
      cursor: { epoch: 1, sample: 50 },
      state: { seed: 7 },
      digest: saved.digest,
    });
    expect(loaded.rejected).toEqual([]);
    expect(readFileSync(join(dir, 'LATEST'), 'utf8')).toBe('step-5\n');
    expect(readFileSync(join(dir, 'BEST'), 'utf8')).toBe('step-5\n');
    expect(readdirSync(dir).sort()).toEqual(['BEST', 'LATEST', 'step-5']);
  });

  it('writes equal bytes for equal state', async () => {
    await saveCheckpoint({ dir, ...state(5) });
    await saveCheckpoint({ dir: `${dir}-other`, ...state(5) });
    for (const name of readdirSync(join(dir, 'step-5'))) {
      expect(readFileSync(join(dir, 'step-5', name))).toEqual(readFileSync(join(`${dir}-other`, 'step-5', name)));
    }
    const other = await saveCheckpoint({ dir: `${dir}-third`, ...state(6) });
    expect(other.digest).not.toBe((await listCheckpoints(dir))[0]!.manifest!.digest);
  });

  it('checks files of several blocks, and names the block and the file that is bad', async () => {
    const values = new Float32Array((2 * BLOCK_BYTES) / 4 + 100).map((_, i) => i);
    const tensors = {
      dense: new Map([
        ['a', hostTensor('F32', [3], Float32Array.of(1, 2, 3))],
        ['b', hostTensor('F32', [values.length], values)],
      ]),
    };
    await saveCheckpoint({ dir, step: 1, tensors });
    const loaded = await loadCheckpoint({ dir });
    expect(loaded.manifest.files[0]!.blocks.length).toBe(3);
    expect(viewAs(loaded.tensors.dense!.get('b')!, 'F32').at(-1)).toBe(values.length - 1);
    const path = join(dir, 'step-1', 'dense.safetensors');
    const bytes = readFileSync(path);
    bytes[BLOCK_BYTES + 17]! ^= 4;
    writeFileSync(path, bytes);
    await expect(loadCheckpoint({ dir, which: 'step-1' })).rejects.toMatchObject({
      fields: { file: path, block: 1, offset: BLOCK_BYTES },
    });
  });

  it('chooses latest, best and by name', async () => {
    await saveCheckpoint({ dir, ...state(1), score: 0.7, keepLast: 9 });
    await saveCheckpoint({ dir, ...state(2), score: 0.9, keepLast: 9 });
    await saveCheckpoint({ dir, ...state(3), score: 0.9, keepLast: 9 });
    await saveCheckpoint({ dir, ...state(10), keepLast: 9 });
    await saveCheckpoint({ dir, ...state(4), name: 'final', keepLast: 9 });
    expect((await listCheckpoints(dir)).map(({ name }) => name)).toEqual([
      'step-10',
      'final',
      'step-3',
      'step-2',
      'step-1',
    ]);
    expect((await loadCheckpoint({ dir })).name).toBe('step-10');
    expect((await loadCheckpoint({ dir, which: 'best' })).name).toBe('step-2');
    expect(readFileSync(join(dir, 'BEST'), 'utf8')).toBe('step-2\n');
    expect((await loadCheckpoint({ dir, which: 'final' })).manifest.step).toBe(4);
    await expect(loadCheckpoint({ dir, which: 'step-7' })).rejects.toThrow(
      /there is no step-7 .*; there are step-10, final/,
    );
  });

  it('replaces a checkpoint of the same name', async () => {
    await saveCheckpoint({ dir, ...state(5) });
    await saveCheckpoint({ dir, ...state(5), state: { seed: 8 } });
    expect((await loadCheckpoint({ dir })).manifest.state).toEqual({ seed: 8 });
    expect(readdirSync(dir).sort()).toEqual(['LATEST', 'step-5']);
  });

  it('keeps the newest two, the best and the named ones', async () => {
    await saveCheckpoint({ dir, ...state(1), score: 0.5 });
    await saveCheckpoint({ dir, ...state(2), score: 0.9 });
    await saveCheckpoint({ dir, ...state(2), name: 'mine' });
    for (const step of [3, 4, 5]) await saveCheckpoint({ dir, ...state(step), score: 0.6 });
    expect((await listCheckpoints(dir)).map(({ name }) => name)).toEqual(['step-5', 'step-4', 'step-2', 'mine']);
  });

  it('does not prune while fewer than two of those that stay are whole', async () => {
    for (const step of [1, 2]) await saveCheckpoint({ dir, ...state(step) });
    truncateSync(join(dir, 'step-2', 'dense.safetensors'), 3);
    const saved = await saveCheckpoint({ dir, ...state(3) });
    expect(saved.removed).toEqual([]);
    expect(existsSync(join(dir, 'step-1'))).toBe(true);
  });

  it('refuses arguments that would not come back', async () => {
    await expect(saveCheckpoint({ dir, ...state(-1) })).rejects.toBeInstanceOf(ArgumentError);
    for (const name of ['../x', '', 'LATEST', 'LOCK', 'bad-x', '.tmp-x', 'step-6']) {
      await expect(saveCheckpoint({ dir, ...state(5), name })).rejects.toBeInstanceOf(ArgumentError);
    }
    await expect(saveCheckpoint({ dir, ...state(5), score: Number.NaN })).rejects.toThrow(/score/);
    await expect(saveCheckpoint({ dir, ...state(5), keepLast: 0 })).rejects.toThrow(
      /keepLast to be an integer >= 1 but received 0/,
    );
    await expect(saveCheckpoint({ dir, step: 5, tensors: { '../up': new Map() } })).rejects.toThrow(/tensors/);
    expect(existsSync(dir)).toBe(false);
  });
});

describe('what is bad, other or absent', () => {
  it('F01: falls back to the newest whole one, says so and quarantines', async () => {
    for (const step of [1, 2]) await saveCheckpoint({ dir, ...state(step) });
    truncateSync(join(dir, 'step-2', 'optimizer.safetensors'), 40);
    mkdirSync(join(dir, '.tmp-left'));
    const loaded = await loadCheckpoint({ dir });
    expect(weight(loaded)).toBe(1);
    expect(loaded.rejected).toMatchObject([{ name: 'step-2', quarantinedAs: 'bad-step-2' }]);
    expect(loaded.rejected[0]!.reason).toMatch(/optimizer.safetensors to have \d+ bytes but it has 40/);
    expect(loaded.cleared).toEqual(['.tmp-left']);
    expect(readdirSync(dir).sort()).toEqual(['LATEST', 'bad-step-2', 'step-1']);
  });

  it('F01: throws for one asked for by name, and never reuses a quarantine name', async () => {
    for (let round = 0; round < 2; round++) {
      await saveCheckpoint({ dir, ...state(2) });
      rmSync(join(dir, 'step-2', 'dense.safetensors'));
      await expect(loadCheckpoint({ dir, which: 'step-2' })).rejects.toBeInstanceOf(CheckpointCorruptError);
    }
    expect(readdirSync(dir).sort()).toEqual(['LATEST', 'bad-step-2', 'bad-step-2-2']);
  });

  it('F05: refuses another configuration, other tensors, another format, with the whole difference', async () => {
    await saveCheckpoint({ dir, ...state(1) });
    const expected = {
      digests: { config: 'c1', data: 'd0', split: 's0' },
      tensors: {
        dense: new Map([
          ['weight', { dtype: 'F32', shape: [4] }],
          ['bias', { dtype: 'F32', shape: [2] }],
        ] as const),
      },
    };
    await expect(loadCheckpoint({ dir, expect: expected })).rejects.toMatchObject({
      code: 'CHECKPOINT_MISMATCH',
      fields: {
        diff: [
          'digest of config: expected c1 but received c0',
          'digest of split: expected s0 but received none',
          'dense: weight: expected F32 (4) but received F32 (2, 2)',
          'dense: missing bias: expected F32 (2)',
        ],
      },
    });
    const path = join(dir, 'step-1', MANIFEST);
    const manifest = parseManifest(readFileSync(path), path);
    writeFileSync(path, encodeManifest({ ...manifest, formatVersion: 2 as 1 }));
    await expect(loadCheckpoint({ dir })).rejects.toThrow(/format version: expected 1 but received 2/);
    await expect(loadCheckpoint({ dir })).rejects.toBeInstanceOf(CheckpointMismatchError);
    expect(readdirSync(dir)).toContain('step-1');
  });

  it('F07: tells all bad from none found, also the second time', async () => {
    await expect(loadCheckpoint({ dir })).rejects.toBeInstanceOf(CheckpointNotFoundError);
    for (const step of [1, 2]) {
      await saveCheckpoint({ dir, ...state(step) });
      writeFileSync(join(dir, `step-${step}`, MANIFEST), '{}');
    }
    for (let round = 0; round < 2; round++)
      await expect(loadCheckpoint({ dir })).rejects.toBeInstanceOf(CheckpointAllBadError);
    expect(readdirSync(dir).sort()).toEqual(['LATEST', 'bad-step-1', 'bad-step-2']);
  });

  it('asks for a score where the best is wanted', async () => {
    await saveCheckpoint({ dir, ...state(1) });
    await expect(loadCheckpoint({ dir, which: 'best' })).rejects.toBeInstanceOf(CheckpointNotFoundError);
  });

  it('changes nothing while another holds the lock', async () => {
    for (const step of [1, 2]) await saveCheckpoint({ dir, ...state(step) });
    truncateSync(join(dir, 'step-2', 'dense.safetensors'), 9);
    const lock = await acquireLock(dir);
    mkdirSync(join(dir, '.tmp-busy'));
    const before = readdirSync(dir);
    expect((await loadCheckpoint({ dir })).rejected).toMatchObject([{ name: 'step-2', quarantinedAs: 'step-2' }]);
    expect(readdirSync(dir)).toEqual(before);
    await expect(saveCheckpoint({ dir, ...state(3) })).rejects.toMatchObject({ code: 'CHECKPOINT_BUSY' });
    await saveCheckpoint({ dir, ...state(3), lock });
    await lock.release();
    expect((await loadCheckpoint({ dir })).name).toBe('step-3');
  });
});

const run = 'run/checkpoints';

/** Three saves, in memory. */
async function threeSaved(): Promise<MemoryEnv> {
  const env = MemoryEnv.empty();
  for (const step of [1, 2, 3]) await saveCheckpoint({ dir: run, ...state(step), score: 0.6 - step / 10, env });
  return env;
}

const temporaries = async (env: Env) =>
  (await env.list(run)).map(({ name }) => name).filter((name) => name.startsWith('.tmp-'));

/** After a crash in this process: gives the lock to another, dead one. */
async function bury(env: Env): Promise<void> {
  const path = `${run}/LOCK`;
  if (!(await env.list(run)).some(({ name }) => name === 'LOCK')) return;
  const lock = Buffer.from(await env.read(path)).toString();
  await env.remove(path);
  await (await env.create(path)).write(Buffer.from(lock.replace(/"start":"\d*"/, '"start":"1"')));
}

const saves: [string, Omit<SaveOptions, 'dir'>][] = [
  ['a new step', { ...state(4), score: 0.6 }],
  ['the same step again', { ...state(3), state: { seed: 8 }, score: 0.6 }],
];

describe.each(saves)('proofs A and B, saving %s', (_what, options) => {
  async function countCalls(): Promise<number> {
    const env = new FaultyEnv(await threeSaved());
    await saveCheckpoint({ dir: run, ...options, env });
    return env.calls;
  }

  const kills: [string, (at: number) => Fault][] = [
    ['before', (at) => ({ at, kind: 'kill' })],
    ['within', (at) => ({ at, kind: 'kill-after' })],
  ];

  it.each(kills)('F02: killed %s the k-th call, every k: the old or the new one loads, whole', async (_name, fault) => {
    const calls = await countCalls();
    expect(calls).toBeGreaterThan(20);
    const before = await threeSaved();
    const outcomes = new Set<string>();
    for (let k = 0; k < calls; k++) {
      const env = before.clone();
      const save = saveCheckpoint({ dir: run, ...options, env: new FaultyEnv(env, fault(k)) });
      await expect(save).rejects.toBeInstanceOf(Killed);
      await bury(env);
      const loaded = await loadCheckpoint({ dir: run, env });
      expect(loaded.rejected).toEqual([]);
      const { score, step } = loaded.manifest;
      expect(weight(loaded)).toBe(step);
      if (score === options.score) expect(loaded.manifest.state).toEqual(options.state);
      else expect([step, loaded.manifest.state]).toEqual([3, { seed: 7 }]);
      outcomes.add(score === options.score ? 'new' : 'old');
      // Nothing is in the way of the next save, and nothing is left of the broken one.
      await saveCheckpoint({ dir: run, ...options, env });
      expect((await loadCheckpoint({ dir: run, env })).manifest.score).toBe(options.score);
      expect(await temporaries(env)).toEqual([]);
    }
    expect([...outcomes].sort()).toEqual(['new', 'old']);
  });

  const failures: [string, (at: number) => Fault][] = [
    ['ENOSPC from', (at) => ({ at, kind: 'fail', code: 'ENOSPC', lasting: true })],
    ['ENOSPC at', (at) => ({ at, kind: 'fail', code: 'ENOSPC' })],
    ['EIO at', (at) => ({ at, kind: 'fail', code: 'EIO' })],
    ['EDQUOT at', (at) => ({ at, kind: 'fail', code: 'EDQUOT' })],
  ];

  it.each(failures)(
    'F04: %s the k-th call, every k: StorageError or a warning, and what was there loads',
    async (_name, fault) => {
      const calls = await countCalls();
      const before = await threeSaved();
      let rejected = 0;
      for (let k = 0; k < calls; k++) {
        const env = before.clone();
        try {
          const saved = await saveCheckpoint({ dir: run, ...options, env: new FaultyEnv(env, fault(k)) });
          expect((await loadCheckpoint({ dir: run, env })).name).toBe(saved.name);
        } catch (error) {
          expect(error).toBeInstanceOf(StorageError);
          rejected++;
        }
        // If giving back the lock was what failed, the lock stays until its holder is gone.
        await bury(env);
        const loaded = await loadCheckpoint({ dir: run, env });
        expect(loaded.rejected).toEqual([]);
        expect([0.3, options.score]).toContain(loaded.manifest.score);
        expect(await temporaries(env)).toEqual([]);
      }
      expect(rejected).toBeGreaterThan(15);
    },
  );

  it('F04: a write that takes half of its bytes is continued', async () => {
    const calls = await countCalls();
    const before = await threeSaved();
    for (let at = 0; at < calls; at++) {
      const env = before.clone();
      const saved = await saveCheckpoint({ dir: run, ...options, env: new FaultyEnv(env, { at, kind: 'short' }) });
      expect(saved.warnings).toEqual([]);
      expect((await loadCheckpoint({ dir: run, env })).manifest.score).toBe(options.score);
    }
  });
});

/** Nothing that was not synced is kept, all of it, and some of it in many ways. */
const losses: Loss[] = [
  { draw: () => 0 },
  { draw: () => 0.49 },
  { draw: () => 0.99 },
  ...Array.from({ length: 24 }, (_, seed): Loss => {
    let at = 0;
    const draws = uniforms(4096, seed, 1);
    return { draw: () => draws[at++]! };
  }),
];

describe('proof C', () => {
  const cases: [string, Omit<SaveOptions, 'dir'>, boolean][] = [
    ...saves.map(([what, options]): [string, Omit<SaveOptions, 'dir'>, boolean] => [what, options, true]),
    ['the first step', { ...state(4), score: 0.6 }, false],
  ];
  const disk = async (filled: boolean): Promise<PowerLossEnv> =>
    filled ? await PowerLossEnv.of(await threeSaved(), 'run') : await PowerLossEnv.of(await emptyRun(), 'run');
  const emptyRun = async (): Promise<MemoryEnv> => {
    const env = MemoryEnv.empty();
    await env.makeDirectory('run');
    return env;
  };
  /** Score of what loads; null where nothing was ever saved. */
  const loadedScore = async (env: Env): Promise<number | null> => {
    try {
      const loaded = await loadCheckpoint({ dir: run, env });
      expect(loaded.rejected).toEqual([]);
      expect(weight(loaded)).toBe(loaded.manifest.step);
      return loaded.manifest.score;
    } catch (error) {
      if (error instanceof CheckpointNotFoundError) return null;
      throw error;
    }
  };

  it.each(cases)(
    'F03: the power fails at the k-th call of saving %s: old or new, whole',
    async (_, options, filled) => {
      const counted = new FaultyEnv(await disk(filled));
      await saveCheckpoint({ dir: run, ...options, env: counted });
      const old = filled ? 0.3 : null;
      const outcomes = new Set<number | null>();
      for (let k = 0; k < counted.calls; k++) {
        const env = await disk(filled);
        const save = saveCheckpoint({ dir: run, ...options, env: new FaultyEnv(env, { at: k, kind: 'kill-after' }) });
        await expect(save).rejects.toBeInstanceOf(Killed);
        for (const loss of losses) {
          const found = await env.afterLoss(loss);
          if ((await found.list('run')).some(({ name }) => name === 'checkpoints')) await bury(found);
          const score = await loadedScore(found);
          expect([old, options.score], `call ${k}`).toContain(score);
          outcomes.add(score);
        }
      }
      expect(outcomes).toEqual(new Set([old, options.score]));
    },
  );

  it.each(cases)('F03: what was saved stays when the power fails later: %s', async (_, options, filled) => {
    for (const loss of losses) {
      const env = await disk(filled);
      await saveCheckpoint({ dir: run, ...options, env });
      const found = await env.afterLoss(loss);
      await bury(found);
      expect(await loadedScore(found)).toBe(options.score);
      await saveCheckpoint({ dir: run, ...state(5), score: 0.7, env: found });
      expect(await loadedScore(found)).toBe(0.7);
      expect(await temporaries(found)).toEqual([]);
    }
  });

  it('F03: a file that was not synced may be empty, cut, or zeros', async () => {
    const env = await PowerLossEnv.of(await emptyRun(), 'run');
    const file = await env.create('run/x');
    await file.write(Buffer.from('ab'));
    await file.sync();
    await file.write(Buffer.from('cd'));
    const read = async (draw: number): Promise<string> => {
      const found = await env.afterLoss({ draw: () => draw });
      return Buffer.from(await found.read('run/x')).toString();
    };
    await expect(read(0)).rejects.toThrow('ENOENT'); // its name was not synced either
    await env.syncDirectory('run');
    expect([await read(0), await read(0.3), await read(0.6), await read(0.9)]).toEqual(['ab', 'abcd', 'abc', 'ab\0\0']);
  });
});

it('F04: a save that fails removes its temporary folder itself and leaves the rest', async () => {
  const before = await threeSaved();
  const names = async (env: Env) => (await env.list(run)).map(({ name }) => name).sort();
  for (let at = 0; ; at++) {
    const env = before.clone();
    const faulty = new FaultyEnv(env, { at, kind: 'fail', code: 'EIO' });
    await saveCheckpoint({ dir: run, ...state(4), env: faulty }).catch((error: unknown) => {
      expect(error).toBeInstanceOf(StorageError);
    });
    if ((await names(env)).includes('step-4')) break;
    expect(await names(env)).toEqual(await names(before));
  }
});

describe('proof D: no damaged byte goes unnoticed', () => {
  it('cuts every file of a checkpoint at every byte and flips every bit', async () => {
    await saveCheckpoint({ dir, step: 3, tensors: { dense: state(3).tensors.dense! } });
    const path = join(dir, 'step-3');
    await verifyCheckpoint(path);
    let noticed = 0;
    const damaged = async (file: string, bytes: Uint8Array) => {
      const read = async (name: string) => (name === file ? bytes : nodeEnv.read(name));
      await expect(verifyCheckpoint(path, { ...nodeEnv, read })).rejects.toBeInstanceOf(CheckpointCorruptError);
      noticed++;
    };
    for (const name of readdirSync(path)) {
      const file = join(path, name);
      const whole = readFileSync(file);
      for (let length = 0; length < whole.length; length++) await damaged(file, whole.subarray(0, length));
      await damaged(file, Buffer.concat([whole, Buffer.alloc(1)]));
      for (let bit = 0; bit < whole.length * 8; bit++) {
        const bytes = Uint8Array.from(whole);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        await damaged(file, bytes);
      }
    }
    await verifyCheckpoint(path);
    expect(noticed).toBeGreaterThan(3500);
  });

  it('notices files that changed places', async () => {
    await saveCheckpoint({ dir, ...state(1) });
    const path = join(dir, 'step-1');
    cpSync(join(path, 'dense.safetensors'), join(path, 'optimizer.safetensors'));
    await expect(verifyCheckpoint(path)).rejects.toBeInstanceOf(CheckpointCorruptError);
  });
});
