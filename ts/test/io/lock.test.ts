import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { CheckpointBusyError } from '../../src/errors.js';
import { acquireLock, lockHolder, processIdentity } from '../../src/io/lock.js';

const root = mkdtempSync(join(tmpdir(), 'galago-lock-'));
afterAll(() => rmSync(root, { recursive: true }));

let dir = '';
let count = 0;
beforeEach(() => {
  dir = join(root, String(count++));
});

describe('lock of a folder', () => {
  it('F06: is held by one, also within a process, and free again after release', async () => {
    const lock = await acquireLock(dir);
    await expect(acquireLock(dir)).rejects.toMatchObject({
      code: 'CHECKPOINT_BUSY',
      exitCode: 75,
      fields: { pid: process.pid },
    });
    expect((await lockHolder(dir))?.pid).toBe(process.pid);
    await lock.release();
    await lock.release();
    expect(await lockHolder(dir)).toBeNull();
    await (await acquireLock(dir)).release();
    expect(readdirSync(dir)).toEqual([]);
  });

  it('F06: a living process is respected, a killed one recognised', async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    try {
      await once(child, 'spawn');
      await (await acquireLock(dir)).release();
      const lock = { ...processIdentity(child.pid!), since: 'now', nonce: 'theirs' };
      writeFileSync(join(dir, 'LOCK'), JSON.stringify(lock));
      await expect(acquireLock(dir)).rejects.toBeInstanceOf(CheckpointBusyError);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    const lock = await acquireLock(dir);
    expect(JSON.parse(readFileSync(join(dir, 'LOCK'), 'utf8'))).toMatchObject({ pid: process.pid });
    expect(readdirSync(dir)).toEqual(['LOCK']);
    await lock.release();
  });

  it.each([
    ['another start time: the id was given to another process', { start: '1' }],
    ['another boot', { boot: 'earlier' }],
  ])('takes over from %s', async (_what, change) => {
    await (await acquireLock(dir)).release();
    writeFileSync(
      join(dir, 'LOCK'),
      JSON.stringify({ ...processIdentity(process.pid), since: '', nonce: 'x', ...change }),
    );
    await (await acquireLock(dir)).release();
    expect(existsSync(join(dir, 'LOCK'))).toBe(false);
  });

  it('takes over from a lock that cannot be read, and believes one of another host', async () => {
    await (await acquireLock(dir)).release();
    writeFileSync(join(dir, 'LOCK'), '');
    await (await acquireLock(dir)).release();
    writeFileSync(
      join(dir, 'LOCK'),
      JSON.stringify({ ...processIdentity(process.pid), host: 'elsewhere', since: '', nonce: 'x' }),
    );
    await expect(acquireLock(dir)).rejects.toThrow(/on elsewhere holds it/);
  });

  it('of many at once exactly one wins', async () => {
    await (await acquireLock(dir)).release();
    writeFileSync(
      join(dir, 'LOCK'),
      JSON.stringify({ ...processIdentity(process.pid), start: '1', since: '', nonce: 'dead' }),
    );
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => acquireLock(dir)));
    expect(results.filter(({ status }) => status === 'fulfilled').length).toBe(1);
    for (const result of results)
      if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(CheckpointBusyError);
  });
});
