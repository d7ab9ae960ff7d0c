import type { Module } from './module.js';

/** An encoder made of blocks, the first one nearest to its input. */
export type BlockEncoder = Module & { readonly blocks: readonly Module[] };

/**
 * Only the last `count` blocks of an encoder train: neither embeddings nor last norm; 'all' leaves everything trainable. `unused`: parameters
 * that nothing reads, which never train.
 */
export function tuneLast(encoder: BlockEncoder, count: number | 'all', unused?: RegExp): void {
  const first = count === 'all' ? 0 : encoder.blocks.length - count;
  for (const [name, x] of encoder.parameters()) {
    const block = /^blocks\.(\d+)\./.exec(name);
    const trains = count === 'all' || (block !== null && Number(block[1]) >= first);
    if (!trains || unused?.test(name) === true) x.requiresGrad = false;
  }
}
