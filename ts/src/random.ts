/**
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 * A number is a function of (key, counter); nothing here has state, so the order of draws never matters.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits (as int32) of the 64-bit product of two unsigned 32-bit integers; every partial sum fits 32 bits. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const middle2 = (Math.imul(aLow, bHigh) + (middle & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (middle2 >>> 16)) | 0;
}

/** One block of four 32-bit words from a 128-bit counter and a 64-bit key; writes into `out` and returns it. */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array = new Uint32Array(4),
): Uint32Array {
  return philoxBlocks(counter, key, out, 4);
}

/**
 * Consecutive blocks: words 0 .. count of `out` from the counters (c0, c1, c2, c3), (c0, c1 + 1, c2, c3), ... One call for
 * many words is what makes bulk generation fast. `count` is rounded up to whole blocks; `out` must have room for them.
 */
export function philoxBlocks(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array,
  count: number = out.length,
): Uint32Array {
  for (let word = 0; word < count; word += 4) {
    let c0 = counter[0] | 0;
    let c1 = (counter[1] + (word >>> 2)) | 0;
    let c2 = counter[2] | 0;
    let c3 = counter[3] | 0;
    let k0 = key[0] | 0;
    let k1 = key[1] | 0;
    for (let round = 0; round < 10; round++) {
      const high0 = mulHigh(M0, c0);
      const high1 = mulHigh(M1, c2);
      const low0 = Math.imul(M0, c0);
      const low1 = Math.imul(M1, c2);
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 = (k0 + W0) | 0;
      k1 = (k1 + W1) | 0;
    }
    out[word] = c0;
    out[word + 1] = c1;
    out[word + 2] = c2;
    out[word + 3] = c3;
  }
  return out;
}

/** Uniform in (0, 1) from a 32-bit word: (word + 0.5) / 2^32. */
export function uniform(word: number): number {
  return (word + 0.5) / 4294967296;
}

/** Standard normal numbers by Box-Muller: number i of `stream` under `seed`. Float64. */
export function normals(count: number, seed: number, stream: number): Float64Array {
  const out = new Float64Array(count);
  const words = new Uint32Array(4);
  for (let i = 0; i < count; i += 2) {
    philox([i >>> 1, 0, stream >>> 0, 1], [seed >>> 0, Math.floor(seed / 4294967296) >>> 0], words);
    const radius = Math.sqrt(-2 * Math.log(uniform(words[0]!)));
    const angle = 2 * Math.PI * uniform(words[1]!);
    out[i] = radius * Math.cos(angle);
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** Uniform numbers in (0, 1): number i of `stream` under `seed`. Float64. */
export function uniforms(count: number, seed: number, stream: number): Float64Array {
  const out = new Float64Array(count);
  const words = new Uint32Array(4);
  for (let i = 0; i < count; i++) {
    if (i % 4 === 0) philox([i >>> 2, 0, stream >>> 0, 2], [seed >>> 0, Math.floor(seed / 4294967296) >>> 0], words);
    out[i] = uniform(words[i % 4]!);
  }
  return out;
}

/** The uniform number in (0, 1) of `index` at `step`, of `stream` under `seed`: the same whatever else is drawn. */
export function uniformAt(index: number, step: number, seed: number, stream: number): number {
  const key = [seed >>> 0, Math.floor(seed / 4294967296) >>> 0] as const;
  return uniform(philox([index >>> 0, step >>> 0, stream >>> 0, 3], key)[0]!);
}

/** 32-bit FNV-1a hash of a name: the stream number of a parameter or an op. */
export function streamOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** Key and counter words of one random op: (seed, step, call). */
export interface RandomKey {
  readonly seed: number;
  readonly step: number;
  readonly call: number;
}

let scope: { seed: number; step: number; calls: number } | null = null;

/** Runs `run` with random ops (dropout) keyed by (seed, step) and by their order within it. */
export function randomScope<T>({ seed, step }: { seed: number; step: number }, run: () => T): T {
  const before = scope;
  scope = { seed, step, calls: 0 };
  try {
    return run();
  } finally {
    scope = before;
  }
}

/** The key of the next random op. Outside `randomScope`: seed 0, step 0, call 0. */
export function nextRandomKey(): RandomKey {
  if (scope === null) return { seed: 0, step: 0, call: 0 };
  return { seed: scope.seed, step: scope.step, call: scope.calls++ };
}
