import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { ModelFileError, StorageError } from '../../src/errors.js';
import {
  encodeSafetensors,
  type HostTensor,
  hostTensor,
  parseSafetensors,
  readSafetensors,
  readSafetensorsFile,
  requireTensors,
  type SafetensorsDtype,
  safetensorsBytes,
  viewAs,
} from '../../src/io/safetensors.js';
import { DTYPE_BYTES } from '../../src/io/safetensors_header.js';
import { sharedData } from '../shared_data.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-safetensors-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file with this header text and `dataBytes` zero bytes behind it. */
function file(header: string | Uint8Array, dataBytes = 0, headerLength?: bigint): Uint8Array {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(headerLength ?? BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(dataBytes)]);
}

function refusal(bytes: Uint8Array, options = {}): ModelFileError {
  try {
    parseSafetensors(bytes, options);
  } catch (error) {
    if (error instanceof ModelFileError) return error;
    throw error;
  }
  throw new Error('the file was accepted');
}

const entry = (dtype: string, shape: string, begin: number | string, end: number | string) =>
  `{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${end}]}`;
const one = (shape: string, end: number | string) => `{"a":${entry('F32', shape, 0, end)}}`;

const refused: [rule: number, what: string, bytes: Uint8Array, options?: object][] = [
  [1, 'an empty file', new Uint8Array(0)],
  [1, 'seven bytes', new Uint8Array(7)],
  [1, 'a header past the end', file('{}', 0, 3n)],
  [1, 'a header above the format limit', file('{}', 0, 100_000_001n)],
  [1, 'a header length that overflows', file('{}', 0, 2n ** 64n - 1n)],
  [2, 'no header', file('')],
  [2, 'a list', file('[]')],
  [2, 'text after the object', file('{}x')],
  [2, 'a zero byte after the object', file('{}\0')],
  [2, 'a byte order mark', file('\ufeff{}')],
  [2, 'bytes that are not UTF-8', file(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]))],
  [2, 'a trailing comma', file(`{"a":${entry('U8', '0', 0, 0)},}`)],
  [2, 'a missing colon', file('{"a"{}}')],
  [2, 'a string without end', file('{"a')],
  [2, 'an object without end', file(`{"a":${entry('F32', '', 0, 4)}`, 4)],
  [2, 'an unknown escape', file('{"\\x":1}')],
  [2, 'a short \\u escape', file('{"\\u12":1}')],
  [2, 'half a surrogate pair', file('{"\\ud800":1}')],
  [2, 'a surrogate pair with a wrong second half', file('{"\\ud800\\u0041":1}')],
  [2, 'a raw control character in a string', file('{"a\nb":1}')],
  [3, 'metadata with a number', file('{"__metadata__":{"a":1}}')],
  [3, 'metadata that nests', file('{"__metadata__":{"a":{"b":"c"}}}')],
  [3, 'metadata that is null', file('{"__metadata__":null}')],
  [4, 'an unknown dtype', file(`{"a":${entry('F8_E4M3', '1', 0, 1)}}`, 1)],
  [4, 'a dtype named like a method', file(`{"a":${entry('toString', '1', 0, 1)}}`, 1)],
  [4, 'a negative size', file(one('-1', 4), 4)],
  [4, 'a fraction', file(one('1.0', 4), 4)],
  [4, 'an exponent', file(one('1e0', 4), 4)],
  [4, 'a leading zero', file(one('01', 4), 4)],
  [4, 'a nested shape', file(one('[1]', 4), 4)],
  [4, 'one offset', file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}', 4)],
  [4, 'three offsets', file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', 4)],
  [4, 'offsets in reverse', file(`{"a":${entry('F32', '1', 4, 0)}}`, 4)],
  [4, 'a missing shape', file('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4)],
  [4, 'a missing dtype', file('{"a":{"shape":[1],"data_offsets":[0,4]}}', 4)],
  [4, 'an empty entry', file('{"a":{}}')],
  [4, 'an unknown key', file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4)],
  [5, 'a size that overflows', file(one('9007199254740991,9007199254740991', 4), 4)],
  [5, 'a size that overflows to four bytes', file(one('4611686018427387905,4', 16), 16)],
  [5, 'an overflow before a zero', file(one('9007199254740991,9007199254740991,0', 0))],
  [6, 'offsets shorter than the shape', file(one('2', 4), 4)],
  [6, 'offsets longer than the shape', file(one('1', 8), 8)],
  [7, 'a hole at the start', file(`{"a":${entry('F32', '1', 4, 8)}}`, 8)],
  [7, 'a hole between two', file(`{"a":${entry('U8', '1', 0, 1)},"b":${entry('U8', '1', 2, 3)}}`, 3)],
  [7, 'an overlap', file(`{"a":${entry('U8', '2', 0, 2)},"b":${entry('U8', '2', 1, 3)}}`, 3)],
  [7, 'two tensors on the same bytes', file(`{"a":${entry('U8', '2', 0, 2)},"b":${entry('U8', '2', 0, 2)}}`, 2)],
  [8, 'trailing bytes', file(one('1', 4), 5)],
  [8, 'data without a tensor', file('{}', 1)],
  [8, 'data cut short', file(one('1', 4), 3)],
  [8, 'offsets beyond 2^53', file(`{"a":${entry('U8', '1', '9007199254740993', '9007199254740994')}}`, 1)],
  [10, 'a name twice', file(`{"a":${entry('U8', '0', 0, 0)},"a":${entry('U8', '0', 0, 0)}}`)],
  [10, 'a name twice, once escaped', file(`{"a":${entry('U8', '0', 0, 0)},"\\u0061":${entry('U8', '0', 0, 0)}}`)],
  [10, 'a key twice in an entry', file('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}')],
  [10, 'metadata twice', file('{"__metadata__":{},"__metadata__":{}}')],
  [10, 'a key twice in the metadata', file('{"__metadata__":{"a":"b","a":"b"}}')],
  [11, 'a header above the limit', file('{}      '), { maxHeaderBytes: 7 }],
  [11, 'too many tensors', file(`{"a":${entry('U8', '0', 0, 0)},"b":${entry('U8', '0', 0, 0)}}`), { maxTensors: 1 }],
  [12, 'a zero-size tensor inside another', file(`{"a":${entry('U8', '4', 0, 4)},"b":${entry('U8', '0', 2, 2)}}`, 4)],
  [13, 'an empty name', file(`{"":${entry('U8', '0', 0, 0)}}`)],
  [13, 'a long name', file(`{"${'é'.repeat(257)}":${entry('U8', '0', 0, 0)}}`)],
  [13, 'a control character in a name', file(`{"a\\u0000":${entry('U8', '0', 0, 0)}}`)],
  [13, '__proto__', file(`{"__proto__":${entry('U8', '0', 0, 0)}}`)],
  [13, 'constructor', file(`{"constructor":${entry('U8', '0', 0, 0)}}`)],
  [14, 'an integer above 64 bits', file(one('18446744073709551616', 4), 4)],
  [14, 'a very long integer', file(one('1'.repeat(300), 4), 4)],
  [14, 'a size above 2^53 beside a zero', file(`{"a":${entry('U8', '9007199254740993,0', 0, 0)}}`)],
  [15, 'more bytes than allowed', file(one('2', 8), 8), { maxBytes: 7 }],
  [
    17,
    'NaN where finite is asked',
    safetensorsBytes(new Map([['a', hostTensor('F32', [2], Float32Array.of(1, Number.NaN))]])),
    { finite: true },
  ],
  [
    17,
    'infinity in bfloat16',
    safetensorsBytes(new Map([['a', hostTensor('BF16', [1], Uint16Array.of(0xff80))]])),
    { finite: true },
  ],
  [
    17,
    'NaN in float16',
    safetensorsBytes(new Map([['a', hostTensor('F16', [1], Uint16Array.of(0x7e00))]])),
    { finite: true },
  ],
  [19, 'a PyTorch file', Buffer.concat([Buffer.from('PK\x03\x04\0\0\x08\x08'), Buffer.alloc(64)])],
  [19, 'a pickle', Buffer.concat([Buffer.from([0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46]), Buffer.alloc(64)])],
  [19, 'a NumPy file', Buffer.concat([Buffer.from([0x93]), Buffer.from('NUMPY\x01\0v\0'), Buffer.alloc(64)])],
];

describe('the reader refuses', () => {
  it.each(refused)('F08 rule %i: %s', async (rule, _what, bytes, options = {}) => {
    const error = refusal(bytes, options);
    expect(error.message).toContain(`(rule ${rule})`);
    expect(error.fields.rule).toBe(rule);
    const path = join(folder, 'refused.safetensors');
    writeFileSync(path, bytes);
    await expect(readSafetensors(path, options)).rejects.toMatchObject({ code: 'MODEL_FILE', fields: { rule } });
  });

  it('has a file for every rule that a file can break', () => {
    const rules = new Set(refused.map(([rule]) => rule));
    // 9 says what is legal, 16 is asked by the model, 18 is about the means: tested below.
    expect([...rules].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 17, 19]);
  });

  it('rule 16: lists missing, extra and mismatched tensors in one error', () => {
    const { tensors } = parseSafetensors(
      safetensorsBytes(
        new Map([
          ['a', hostTensor('F32', [2], new Float32Array(2))],
          ['x', hostTensor('U8', [], new Uint8Array(1))],
        ]),
      ),
    );
    const expected = new Map([
      ['a', { dtype: 'F32', shape: [1, 2] }],
      ['b', { dtype: 'I64', shape: [] }],
    ] as const);
    try {
      requireTensors(tensors, expected);
      expect.unreachable();
    } catch (error) {
      expect((error as ModelFileError).fields.differences).toEqual([
        'a: expected F32 (1, 2) but received F32 (2)',
        'missing b: expected I64 ()',
        'extra x: U8 ()',
      ]);
    }
  });

  it('F09: every truncation of a small file', () => {
    const whole = safetensorsBytes(
      new Map<string, HostTensor>([
        ['weight', hostTensor('F32', [2, 2], Float32Array.of(1, 2, 3, 4))],
        ['ids', hostTensor('I64', [1], BigInt64Array.of(2n ** 60n + 1n))],
      ]),
    );
    expect(parseSafetensors(whole).tensors.size).toBe(2);
    for (let length = 0; length < whole.length; length++) refusal(whole.subarray(0, length));
  });

  it('a missing file with a StorageError', async () => {
    await expect(readSafetensors(join(folder, 'absent'))).rejects.toBeInstanceOf(StorageError);
  });

  it('wrong dtypes when values are viewed', () => {
    expect(() => viewAs(hostTensor('F32', [1], new Float32Array(1)), 'I32')).toThrow(/expected I32 but received F32/);
  });
});

describe('the reader accepts', () => {
  it('rule 2: white space around the object', () => {
    expect(parseSafetensors(file(` \n\t\r{ "a" : ${entry('U8', ' 1 ', 0, 1)} } \n`, 1)).tensors.size).toBe(1);
  });

  it('rule 9: rank 0, zero sizes on a boundary, NaN', () => {
    const header = `{"s":${entry('F32', '', 0, 4)},"z":${entry('F32', '0,7', 4, 4)},"y":${entry('F32', '0', 0, 0)}}`;
    const bytes = file(header, 4);
    bytes.fill(0xff, bytes.length - 4);
    const { tensors } = parseSafetensors(bytes);
    expect([...tensors.keys()]).toEqual(['y', 's', 'z']);
    expect(viewAs(tensors.get('s')!, 'F32')[0]).toBeNaN();
    expect(tensors.get('z')!.shape).toEqual([0, 7]);
  });

  it('an empty header and escaped names', () => {
    expect(parseSafetensors(file('{}')).tensors.size).toBe(0);
    const { tensors, metadata } = parseSafetensors(
      file(
        `{"__metadata__":{"__proto__":"x","f":"\\"\\\\\\/\\b\\f\\n\\r\\t"},"\\ud83d\\ude00":${entry('U8', '0', 0, 0)}}`,
      ),
    );
    expect([...tensors.keys()]).toEqual(['😀']);
    expect([...metadata]).toEqual([
      ['__proto__', 'x'],
      ['f', '"\\/\b\f\n\r\t'],
    ]);
  });
});

describe('the writer', () => {
  it('starts with {, pads to 8 bytes and keeps the order given', () => {
    const parts = encodeSafetensors(
      new Map([
        ['z', hostTensor('U8', [3], Uint8Array.of(1, 2, 3))],
        ['a', hostTensor('F32', [1], Float32Array.of(5))],
      ]),
      { metadata: new Map([['format', 'pt']]) },
    );
    const header = Buffer.from(parts[0]!);
    expect(header.length % 8).toBe(0);
    expect(Number(header.readBigUInt64LE())).toBe(header.length - 8);
    expect(header.toString('utf8', 8).trimEnd()).toBe(
      `{"__metadata__":{"format":"pt"},"z":${entry('U8', '3', 0, 3)},"a":${entry('F32', '1', 3, 7)}}`,
    );
  });

  it('refuses what the reader would refuse', () => {
    const bytes = new Uint8Array(4);
    const write = (name: string, tensor: HostTensor) => () => encodeSafetensors(new Map([[name, tensor]]));
    expect(write('', { dtype: 'F32', shape: [1], data: bytes })).toThrow(/1 to 512 bytes/);
    expect(write('__metadata__', { dtype: 'F32', shape: [1], data: bytes })).toThrow(/reserved/);
    expect(write('\ud800', { dtype: 'F32', shape: [1], data: bytes })).toThrow(/Unicode/);
    expect(write('a', { dtype: 'F32', shape: [2], data: bytes })).toThrow(
      /expected 8 bytes for F32 of shape \(2\) but received 4/,
    );
    expect(write('a', { dtype: 'F32', shape: [-1], data: bytes })).toThrow(/sizes >= 0/);
  });

  it('round trip of any tensors, from memory and from disk', async () => {
    const dtype = fc.constantFrom(...(Object.keys(DTYPE_BYTES) as SafetensorsDtype[]));
    const tensor = fc
      .tuple(dtype, fc.array(fc.nat(4), { maxLength: 4 }), fc.infiniteStream(fc.nat(255)))
      .map(([type, shape, stream]): HostTensor => {
        const length = shape.reduce((product, size) => product * size, DTYPE_BYTES[type]);
        return { dtype: type, shape, data: Uint8Array.from([...stream.take(length)]) };
      });
    const name = fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
      .filter((text) => !/__|constructor|prototype/.test(text));
    const entries = fc.uniqueArray(fc.tuple(name, tensor), { maxLength: 6, selector: ([key]) => key });
    const pairs = fc.uniqueArray(fc.tuple(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' })), {
      selector: ([key]) => key,
    });
    const path = join(folder, 'round_trip.safetensors');
    await fc.assert(
      fc.asyncProperty(entries, pairs, async (list, meta) => {
        const tensors = new Map(list);
        const metadata = new Map(meta);
        const bytes = safetensorsBytes(tensors, { metadata });
        expect(Buffer.compare(bytes, safetensorsBytes(tensors, { metadata }))).toBe(0);
        writeFileSync(path, bytes);
        for (const read of [parseSafetensors(bytes), await readSafetensorsFile(path)]) {
          expect(read.metadata).toEqual(metadata);
          expect(read.tensors.size).toBe(tensors.size);
          for (const [key, { dtype: type, shape, data }] of tensors) {
            const found = read.tensors.get(key)!;
            expect([found.dtype, found.shape]).toEqual([type, shape]);
            expect(Buffer.compare(found.data, data)).toBe(0);
            expect(viewAs(found, type).byteLength).toBe(data.length);
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  it('F08: never crashes or accepts something else when header bytes change', () => {
    const whole = safetensorsBytes(
      new Map<string, HostTensor>([
        ['a', hostTensor('F32', [2], Float32Array.of(1, 2))],
        ['b', hostTensor('U8', [0], new Uint8Array(0))],
      ]),
    );
    const headerEnd = whole.length - 8;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), (changes) => {
        const bytes = Uint8Array.from(whole);
        for (const [at, value] of changes) bytes[at] = value;
        try {
          const { tensors } = parseSafetensors(bytes);
          for (const { data, shape, dtype } of tensors.values()) {
            expect(data.length).toBe(shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]));
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ModelFileError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

interface Expected {
  dtype: string;
  shape: number[];
  sum: number;
  sha256: string;
}

describe.skipIf(sharedData('safetensors') === null)('files written by the reference implementation', () => {
  it.each(['mnist_cnn', 'multi_layer'])('%s', async (stem) => {
    const expected = JSON.parse(readFileSync(sharedData('safetensors', `${stem}.expected.json`)!, 'utf8')) as Record<
      string,
      Expected | null
    >;
    const tensors = await readSafetensors(sharedData('safetensors', `${stem}.safetensors`)!);
    const names = Object.keys(expected).filter((name) => name !== '__metadata__');
    expect([...tensors.keys()].sort()).toEqual(names.sort());
    for (const name of names) {
      const { dtype, shape, sum, sha256 } = expected[name]!;
      const tensor = tensors.get(name)!;
      expect({ float32: 'F32', int64: 'I64' }[dtype]).toBe(tensor.dtype);
      expect(tensor.shape).toEqual(shape);
      expect(createHash('sha256').update(tensor.data).digest('hex')).toBe(sha256);
      if (tensor.dtype === 'F32') {
        expect(viewAs(tensor, 'F32').reduce((total, value) => total + value, 0)).toBeCloseTo(sum, 5);
      }
    }
  });
});
