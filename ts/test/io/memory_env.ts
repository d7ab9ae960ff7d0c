import type { Env, EnvFile } from '../../src/io/env.js';

function systemError(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code, syscall: 'memory', path });
}

/** A file system in memory: what the machine's does as far as `Env` can see, without waiting for a disk. Files share content by link. */
export class MemoryEnv implements Env {
  private constructor(
    private readonly files: Map<string, { bytes: Buffer }>,
    private readonly directories: Set<string>,
  ) {}

  static empty(): MemoryEnv {
    return new MemoryEnv(new Map(), new Set());
  }

  clone(): MemoryEnv {
    return new MemoryEnv(
      new Map([...this.files].map(([path, { bytes }]) => [path, { bytes }])),
      new Set(this.directories),
    );
  }

  private open(path: string, isNew: boolean): EnvFile {
    const parent = path.slice(0, path.lastIndexOf('/'));
    if (!this.directories.has(parent)) throw systemError('ENOENT', path);
    if (isNew && this.files.has(path)) throw systemError('EEXIST', path);
    const file = this.files.get(path) ?? { bytes: Buffer.alloc(0) };
    this.files.set(path, file);
    return {
      write: async (bytes) => {
        file.bytes = Buffer.concat([file.bytes, bytes]);
        return bytes.length;
      },
      sync: async () => undefined,
      close: async () => undefined,
    };
  }

  makeDirectory = async (path: string) => {
    const parts = path.split('/');
    for (let length = 1; length <= parts.length; length++) this.directories.add(parts.slice(0, length).join('/'));
  };
  create = async (path: string) => this.open(path, true);
  append = async (path: string) => this.open(path, false);

  rename = async (from: string, to: string) => {
    const inside = (path: string) => path === from || path.startsWith(`${from}/`);
    const moved = (path: string) => to + path.slice(from.length);
    if (![...this.files.keys(), ...this.directories].some(inside)) throw systemError('ENOENT', from);
    const isTaken = [...this.files.keys(), ...this.directories].some((path) => path.startsWith(`${to}/`));
    if (isTaken) throw systemError('ENOTEMPTY', to);
    for (const [path, file] of [...this.files].filter(([name]) => inside(name))) {
      this.files.delete(path);
      this.files.set(moved(path), file);
    }
    for (const path of [...this.directories].filter(inside)) {
      this.directories.delete(path);
      this.directories.add(moved(path));
    }
  };

  link = async (from: string, to: string) => {
    const file = this.files.get(from);
    if (file === undefined) throw systemError('ENOENT', from);
    if (this.files.has(to)) throw systemError('EEXIST', to);
    this.files.set(to, file);
  };

  remove = async (path: string) => {
    for (const name of [...this.files.keys()])
      if (name === path || name.startsWith(`${path}/`)) this.files.delete(name);
    for (const name of [...this.directories])
      if (name === path || name.startsWith(`${path}/`)) this.directories.delete(name);
  };

  syncDirectory = async () => undefined;

  list = async (path: string) => {
    if (!this.directories.has(path)) throw systemError('ENOENT', path);
    const children = (names: Iterable<string>, isDirectory: boolean) =>
      [...names]
        .filter((name) => name.startsWith(`${path}/`) && !name.slice(path.length + 1).includes('/'))
        .map((name) => ({ name: name.slice(path.length + 1), isDirectory }));
    return [...children(this.files.keys(), false), ...children(this.directories, true)];
  };

  read = async (path: string) => {
    const file = this.files.get(path);
    if (file === undefined) throw systemError(this.directories.has(path) ? 'EISDIR' : 'ENOENT', path);
    return Uint8Array.from(file.bytes);
  };
}
