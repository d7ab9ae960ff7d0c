/**
 * Where the arrays of a batch lie. By default each is an array of its own; in the loader all arrays of a batch share one buffer, which
 * comes back when the consumer is done with the batch and holds a later one: a steady pass allocates nothing.
 */

/** Gives arrays. What they contain is unspecified: every element is to be written. */
export interface BatchMemory {
  int32(length: number): Int32Array;
  float32(length: number): Float32Array;
  uint8(length: number): Uint8Array;
}

/** Each array with memory of its own. */
export const ownMemory: BatchMemory = {
  int32: (length) => new Int32Array(length),
  float32: (length) => new Float32Array(length),
  uint8: (length) => new Uint8Array(length),
};

/** Arrays begin at multiples of so many bytes: a cache line. */
export const ARRAY_ALIGNMENT = 64;

/** Buffers that hold one batch after another. `begin` before each batch; a batch owns its buffers until they are given back. */
export class BatchArena implements BatchMemory {
  /** Buffers that were made since the beginning. */
  made = 0;
  private readonly free: ArrayBuffer[] = [];
  private buffer: ArrayBuffer | null = null;
  private used = 0;
  /** Bytes of this batch in earlier buffers, and of the largest batch so far. */
  private full = 0;
  private largest = 0;

  /** The next batch: in a buffer that came back, where one is large enough. */
  begin(): void {
    this.largest = Math.max(this.largest, this.full + this.used);
    this.full = 0;
    this.used = 0;
    this.buffer = null;
    while (this.buffer === null && this.free.length > 0) {
      const buffer = this.free.pop()!;
      if (buffer.byteLength >= this.largest) this.buffer = buffer;
    }
  }

  /** Takes the memory of a batch that nobody reads any more. */
  giveBack(buffer: ArrayBuffer): void {
    this.free.push(buffer);
  }

  int32(length: number): Int32Array {
    return new Int32Array(...this.place(4 * length), length);
  }

  float32(length: number): Float32Array {
    return new Float32Array(...this.place(4 * length), length);
  }

  uint8(length: number): Uint8Array {
    return new Uint8Array(...this.place(length), length);
  }

  private place(bytes: number): [ArrayBuffer, number] {
    if (this.buffer === null || this.used + bytes > this.buffer.byteLength) {
      this.full += this.used;
      this.used = 0;
      // An eighth to spare: batches differ in size.
      const wanted = Math.max(bytes, this.largest - this.full, this.full);
      this.buffer = new ArrayBuffer(Math.max(1 << 14, aligned(wanted + (wanted >> 3))));
      this.made++;
    }
    const at = this.used;
    this.used += aligned(bytes);
    return [this.buffer, at];
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ARRAY_ALIGNMENT) * ARRAY_ALIGNMENT;
}
