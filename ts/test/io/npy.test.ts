import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ArgumentError, ModelFileError, StorageError } from '../../src/errors.js';
import { encodeNpy, type NpyArray, npyToFloat32, parseNpy, readNpy, writeNpy } from '../../src/io/npy.js';

/** A file with `header` as its text, padded to a multiple of 16 as older NumPy does, or not padded at all. */
function npy(header: string, data: Uint8Array, { version = 1, padded = true } = {}): Uint8Array {
  const start = version === 1 ? 10 : 12;
  const length = padded ? Math.ceil((start + header.length + 1) / 16) * 16 - start : header.length;
  const text = Buffer.from(padded ? `${header.padEnd(length - 1)}\n` : header, 'latin1');
  const size = Buffer.alloc(start - 8);
  if (version === 1) size.writeUInt16LE(text.length);
  else size.writeUInt32LE(text.length);
  return Buffer.concat([Buffer.from(`\x93NUMPY${String.fromCharCode(version)}\0`, 'latin1'), size, text, data]);
}
const bytesOf = (array: NpyArray['data']): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const header = (descr: string, shape: string): string =>
  `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;

const arrays: NpyArray[] = [
  { dtype: 'float16', shape: [3], data: Uint16Array.from([0x3c00, 0xc000, 0x0001]) },
  { dtype: 'float32', shape: [2, 3], data: Float32Array.from([1, -2.5, 3e38, 0, Number.NaN, -0]) },
  { dtype: 'float64', shape: [1, 1, 2], data: Float64Array.from([Math.PI, -1e300]) },
  { dtype: 'int32', shape: [0, 5], data: Int32Array.of() },
  { dtype: 'int64', shape: [2], data: BigInt64Array.from([-9223372036854775808n, 7305112233445566778n]) },
  { dtype: 'uint8', shape: [], data: Uint8Array.of(255) },
];

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'galago-npy-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('npy files', () => {
  it.each(arrays)('$dtype of shape $shape comes back bit for bit', async (array) => {
    expect(parseNpy(encodeNpy(array), 'x.npy')).toEqual(array);
    const path = join(folder, 'x.npy');
    await writeNpy(path, array);
    const read = await readNpy(path);
    expect(read.dtype).toBe(array.dtype);
    expect(read.shape).toEqual(array.shape);
    expect(read.data.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect([...bytesOf(read.data)]).toEqual([...bytesOf(array.data)]);
    expect(await readdir(folder)).toEqual(['x.npy']);
  });

  it('writes the bytes that NumPy writes', () => {
    const bytes = encodeNpy({ dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) });
    const text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    const expected = Buffer.concat([
      Buffer.from('\x93NUMPY\x01\x00\x76\x00', 'latin1'),
      Buffer.from(`${text.padEnd(117)}\n`),
      Buffer.from([0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]),
    ]);
    expect(Buffer.from(bytes).equals(expected)).toBe(true);
  });

  it.each([1, 2, 3])('reads version %i at any alignment, with keys in any order', (version) => {
    const data = bytesOf(Int32Array.of(7, -8));
    for (const text of [
      header('<i4', '(2,)'),
      `{"shape":(1,2),"fortran_order":False,"descr":"<i4"}`,
      `{ 'fortran_order' : False , 'descr':'<i4','shape':( 2L , 1L ) }  `,
    ]) {
      for (const padded of [true, false]) {
        const array = parseNpy(npy(text, data, { version, padded }), 'x.npy');
        expect(array.dtype).toBe('int32');
        expect([...array.data]).toEqual([7, -8]);
      }
    }
    expect(parseNpy(npy(header('<u1', '(1,)'), Uint8Array.of(9), { version }), 'x.npy').dtype).toBe('uint8');
  });

  it.each([
    ['bytes of another format', Buffer.from('PK\x03\x04 an archive'), 'magic', /magic string/],
    ['an empty file', Buffer.alloc(0), 'magic', /magic string/],
    [
      'version 4',
      npy(header('<f4', '()'), Buffer.alloc(4), { version: 4 }),
      'version',
      /version 1, 2 or 3 but found 4/,
    ],
    ['a header that is cut', npy(header('<f4', '()'), Buffer.alloc(0)).subarray(0, 40), 'length', /header is cut/],
    ['a length that is cut', Buffer.from('\x93NUMPY\x01\0v', 'latin1'), 'length', /header is cut/],
    ['a giant header', Buffer.from('\x93NUMPY\x02\0\xff\xff\xff\xff', 'latin1'), 'header', /at most 65536 bytes/],
    ['objects', npy(header('|O', '(1,)'), Buffer.from('cos\nsystem')), 'dtype', /Python objects, which can carry code/],
    [
      'records',
      npy(`{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}`, Buffer.alloc(4)),
      'dtype',
      /records/,
    ],
    ['big-endian values', npy(header('>f4', '(1,)'), Buffer.alloc(4)), 'dtype', /little-endian values but found >f4/],
    ['strings', npy(header('<U8', '(1,)'), Buffer.alloc(32)), 'dtype', /f2 f4 f8 i4 i8 u1.* found "<U8"/],
    ['complex numbers', npy(header('<c8', '(1,)'), Buffer.alloc(8)), 'dtype', /found "<c8"/],
    [
      'Fortran order',
      npy(`{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}`, Buffer.alloc(4)),
      'order',
      /C order/,
    ],
    [
      'values that are cut',
      npy(header('<f4', '(2, 3)'), Buffer.alloc(23)),
      'length',
      /expected 24 bytes .* but found 23/,
    ],
    [
      'values that go on',
      npy(header('<f4', '(2, 3)'), Buffer.alloc(25)),
      'length',
      /expected 24 bytes .* but found 25/,
    ],
    ['a shape past 2^53', npy(header('<f4', '(4294967296, 4294967296)'), Buffer.alloc(4)), 'shape', /too large/],
    ['a size past 2^53', npy(header('<f4', '(99999999999999999999,)'), Buffer.alloc(4)), 'header', /too large/],
    ['a negative size', npy(header('<f4', '(-1,)'), Buffer.alloc(4)), 'header', /expected a size/],
    ['an expression', npy(header('<f4', '(__import__("os").getpid(),)'), Buffer.alloc(4)), 'header', /expected a size/],
    ['a call', npy('dict(descr="<f4")', Buffer.alloc(4)), 'header', /expected \{/],
    ['an unknown key', npy(`{'descr': '<f4', 'order': 'C'}`, Buffer.alloc(4)), 'header', /unknown key "order"/],
    ['a key twice', npy(`{'descr': '<f4', 'descr': '<f8'}`, Buffer.alloc(4)), 'header', /key descr stands twice/],
    [
      'a key missing',
      npy(`{'descr': '<f4', 'shape': (1,)}`, Buffer.alloc(4)),
      'header',
      /descr, fortran_order and shape/,
    ],
    ['text behind the dictionary', npy(`${header('<f4', '(1,)')} + 1`, Buffer.alloc(4)), 'header', /end of the header/],
    ['an open dictionary', npy(`{'descr': '<f4'`, Buffer.alloc(4)), 'header', /expected \}/],
  ])('refuses %s', async (_, bytes, what, message) => {
    expect(() => parseNpy(bytes, 'x.npy')).toThrow(ModelFileError);
    expect(() => parseNpy(bytes, 'x.npy')).toThrow(message);
    expect(() => parseNpy(bytes, 'x.npy')).toThrow(expect.objectContaining({ fields: { file: 'x.npy', what } }));
    const path = join(folder, 'x.npy');
    await writeFile(path, bytes);
    await expect(readNpy(path)).rejects.toThrow(message);
  });

  it('answers or refuses with a typed error, whatever the header', () => {
    const good = npy(header('<f4', '(2,)'), Buffer.alloc(8));
    fc.assert(
      fc.property(
        fc.nat({ max: good.length - 1 }),
        fc.nat({ max: 255 }),
        fc.nat({ max: good.length }),
        (at, byte, length) => {
          const bytes = Uint8Array.from(good);
          bytes[at] = byte;
          for (const candidate of [bytes, bytes.subarray(0, length)]) {
            try {
              expect(parseNpy(candidate, 'x.npy').data.byteLength).toBeLessThanOrEqual(good.length);
            } catch (error) {
              expect(error).toBeInstanceOf(ModelFileError);
            }
          }
        },
      ),
      { seed: 1, numRuns: 500 },
    );
  });

  it('is written whole by several at the same time', async () => {
    const arrays = Array.from({ length: 8 }, (_, i) => new Float32Array(50_000).fill(i));
    const path = join(folder, 'many.npy');
    await Promise.all(arrays.map((data) => writeNpy(path, { dtype: 'float32', shape: [50_000], data })));
    const { data } = await readNpy(path);
    expect(new Set(data as Float32Array).size).toBe(1);
  });

  it('says which file the system refused', async () => {
    await expect(readNpy(join(folder, 'absent.npy'))).rejects.toThrow(StorageError);
    await expect(readNpy(join(folder, 'absent.npy'))).rejects.toMatchObject({ code: 'ENOENT', exitCode: 74 });
    await expect(readNpy(folder)).rejects.toMatchObject({ code: 'EISDIR' });
    const path = join(folder, 'no', 'folder.npy');
    await expect(writeNpy(path, arrays[0]!)).rejects.toMatchObject({ code: 'ENOENT', fields: { path, call: 'write' } });
    await writeNpy(join(folder, 'again.npy'), arrays[0]!);
    await writeNpy(join(folder, 'again.npy'), arrays[1]!);
    expect(parseNpy(await readFile(join(folder, 'again.npy')), 'again.npy')).toEqual(arrays[1]);
  });

  it.each([[[2]], [[-1, -3]], [[1.5, 2]]])('does not write shape %j for three values', (shape) => {
    expect(() => encodeNpy({ dtype: 'float32', shape, data: new Float32Array(3) })).toThrow(ArgumentError);
  });
});

describe('npyToFloat32', () => {
  it('turns float16 bits into numbers', () => {
    const bits = [0x3c00, 0xc000, 0x0001, 0x03ff, 0x0400, 0x7bff, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0x3555];
    const values = npyToFloat32({ dtype: 'float16', shape: [bits.length], data: Uint16Array.from(bits) });
    const expected = [
      1,
      -2,
      2 ** -24,
      1023 * 2 ** -24,
      2 ** -14,
      65504,
      -0,
      Infinity,
      -Infinity,
      Number.NaN,
      0.333251953125,
    ];
    expect([...values]).toEqual(expected);
  });

  it('rounds float64 and integers, leaves float32 alone, refuses int64', () => {
    const float32 = Float32Array.of(1.5);
    expect(npyToFloat32({ dtype: 'float32', shape: [1], data: float32 })).toBe(float32);
    expect([...npyToFloat32({ dtype: 'float64', shape: [1], data: Float64Array.of(0.1) })]).toEqual([Math.fround(0.1)]);
    expect([...npyToFloat32({ dtype: 'uint8', shape: [2], data: Uint8Array.of(0, 255) })]).toEqual([0, 255]);
    expect(() => npyToFloat32({ dtype: 'int64', shape: [1], data: BigInt64Array.of(1n) })).toThrow(ArgumentError);
  });
});
