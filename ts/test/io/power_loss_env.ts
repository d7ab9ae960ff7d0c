/**
 * A file system that remembers what is on the disk for certain. Written bytes are there once their file was synced; created, renamed and removed
 * names once their folder was. When the power goes, anything else may be there or not, each by itself: stricter than journals are.
 */
import type { Env, EnvFile } from '../../src/io/env.js';
import { MemoryEnv } from './memory_env.js';

interface FileNode {
  readonly kind: 'file';
  bytes: Uint8Array;
  synced: Uint8Array;
}

/** Names that one call gives or takes; a rename is one change. */
type Change = readonly (readonly [name: string, node: Node | null])[];

interface FolderNode {
  readonly kind: 'folder';
  readonly names: Map<string, Node>;
  readonly synced: Map<string, Node>;
  /** What happened to names since the last sync, in order. */
  pending: Change[];
}

type Node = FileNode | FolderNode;

/** What the disk kept of a thing that was not synced: `draw` gives a number in [0, 1) each time it is asked. */
export interface Loss {
  draw(): number;
}

function systemError(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code, syscall: 'memory', path });
}

const folder = (): FolderNode => ({ kind: 'folder', names: new Map(), synced: new Map(), pending: [] });

export class PowerLossEnv implements Env {
  readonly #root = folder();

  /** Everything of `env` below `path`, durable. */
  static async of(env: Env, path: string): Promise<PowerLossEnv> {
    const disk = new PowerLossEnv();
    const copy = async (at: string): Promise<void> => {
      await disk.makeDirectory(at);
      for (const { name, isDirectory } of await env.list(at)) {
        if (isDirectory) await copy(`${at}/${name}`);
        else await (await disk.create(`${at}/${name}`)).write(await env.read(`${at}/${name}`));
      }
    };
    await copy(path);
    disk.settle(disk.#root);
    return disk;
  }

  private settle(node: Node): void {
    if (node.kind === 'file') {
      node.synced = node.bytes;
      return;
    }
    this.sync(node);
    for (const child of node.names.values()) this.settle(child);
  }

  private sync(node: FolderNode): void {
    node.pending = [];
    node.synced.clear();
    for (const [name, child] of node.names) node.synced.set(name, child);
  }

  private find(path: string): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const name of path.split('/')) node = node?.kind === 'folder' ? node.names.get(name) : undefined;
    return node;
  }

  private folderAt(path: string): FolderNode {
    const node = path === '' ? this.#root : this.find(path);
    if (node?.kind !== 'folder') throw systemError('ENOENT', path);
    return node;
  }

  private place(path: string): { parent: FolderNode; name: string } {
    const cut = path.lastIndexOf('/');
    return { parent: this.folderAt(path.slice(0, Math.max(0, cut))), name: path.slice(cut + 1) };
  }

  private change(parent: FolderNode, change: Change): void {
    parent.pending.push(change);
    for (const [name, node] of change) {
      if (node === null) parent.names.delete(name);
      else parent.names.set(name, node);
    }
  }

  private open(path: string, isNew: boolean): EnvFile {
    const { parent, name } = this.place(path);
    const known = parent.names.get(name);
    if (isNew && known !== undefined) throw systemError('EEXIST', path);
    const file: FileNode =
      known?.kind === 'file' ? known : { kind: 'file', bytes: new Uint8Array(), synced: new Uint8Array() };
    if (known === undefined) this.change(parent, [[name, file]]);
    return {
      write: async (bytes) => {
        file.bytes = Uint8Array.from([...file.bytes, ...bytes]);
        return bytes.length;
      },
      sync: async () => {
        file.synced = file.bytes;
      },
      close: async () => undefined,
    };
  }

  makeDirectory = async (path: string) => {
    const parts = path.split('/');
    for (let length = 1; length <= parts.length; length++) {
      const { parent, name } = this.place(parts.slice(0, length).join('/'));
      if (!parent.names.has(name)) this.change(parent, [[name, folder()]]);
    }
  };
  create = async (path: string) => this.open(path, true);
  append = async (path: string) => this.open(path, false);

  rename = async (from: string, to: string) => {
    const [source, target] = [this.place(from), this.place(to)];
    const node = source.parent.names.get(source.name);
    if (node === undefined) throw systemError('ENOENT', from);
    const there = target.parent.names.get(target.name);
    if (there?.kind === 'folder' && there.names.size > 0) throw systemError('ENOTEMPTY', to);
    if (source.parent !== target.parent) throw systemError('EXDEV', to);
    this.change(source.parent, [
      [source.name, null],
      [target.name, node],
    ]);
  };

  link = async (from: string, to: string) => {
    const node = this.find(from);
    const { parent, name } = this.place(to);
    if (node === undefined) throw systemError('ENOENT', from);
    if (parent.names.has(name)) throw systemError('EEXIST', to);
    this.change(parent, [[name, node]]);
  };

  remove = async (path: string) => {
    const { parent, name } = this.place(path);
    const clear = (of: FolderNode, child: string): void => {
      const node = of.names.get(child);
      if (node === undefined) return;
      if (node.kind === 'folder') for (const inner of [...node.names.keys()]) clear(node, inner);
      this.change(of, [[child, null]]);
    };
    clear(parent, name);
  };

  syncDirectory = async (path: string) => this.sync(this.folderAt(path));

  list = async (path: string) =>
    [...this.folderAt(path).names].map(([name, node]) => ({ name, isDirectory: node.kind === 'folder' }));

  read = async (path: string) => {
    const node = this.find(path);
    if (node === undefined) throw systemError('ENOENT', path);
    if (node.kind === 'folder') throw systemError('EISDIR', path);
    return Uint8Array.from(node.bytes);
  };

  /** What is found after the power is back. */
  async afterLoss(loss: Loss): Promise<MemoryEnv> {
    const env = MemoryEnv.empty();
    const kept = new Map<FileNode, Uint8Array>();
    const contents = (file: FileNode): Uint8Array => {
      if (file.bytes === file.synced) return file.bytes;
      const draw = loss.draw();
      if (draw < 1 / 4) return file.synced;
      if (draw < 2 / 4) return file.bytes;
      const lost = file.bytes.length - file.synced.length;
      // Half of what was written, or its length without its bytes.
      if (draw < 3 / 4) return file.bytes.slice(0, file.synced.length + Math.floor(lost / 2));
      return file.bytes.map((byte, at) => (at < file.synced.length ? byte : 0));
    };
    const restore = async (node: FolderNode, path: string): Promise<void> => {
      const names = new Map(node.synced);
      for (const change of node.pending) {
        if (loss.draw() < 1 / 2) continue;
        for (const [name, child] of change) {
          if (child === null) names.delete(name);
          else names.set(name, child);
        }
      }
      for (const [name, child] of names) {
        const at = path === '' ? name : `${path}/${name}`;
        if (child.kind === 'folder') {
          await env.makeDirectory(at);
          await restore(child, at);
          continue;
        }
        const bytes = kept.get(child) ?? contents(child);
        kept.set(child, bytes);
        await (await env.create(at)).write(bytes);
      }
    };
    await restore(this.#root, '');
    return env;
  }
}
