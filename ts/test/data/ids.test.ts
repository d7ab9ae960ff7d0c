import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkIds, columnIds, type Ids, UNKNOWN_ROW, Vocabulary } from '../../src/data/ids.js';
import { DataError, IdError } from '../../src/errors.js';

function faultOf(action: () => unknown): IdError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(IdError);
    expect(error).toBeInstanceOf(TypeError);
    return error as IdError;
  }
  throw new Error('nothing was thrown');
}

describe('F17, F18: checkIds', () => {
  it('F19: accepts every legal kind, exactly', () => {
    const edges = BigInt64Array.of(0n, -1n, -(2n ** 63n), 2n ** 63n - 1n);
    expect(checkIds(edges, 'item')).toEqual({ kind: 'int64', values: edges });
    const unsigned = BigUint64Array.of(2n ** 64n - 1n);
    expect(checkIds(unsigned, 'item')).toEqual({ kind: 'uint64', values: unsigned });
    expect(checkIds(Int32Array.of(-(2 ** 31)), 'item').values).toEqual(BigInt64Array.of(-(2n ** 31n)));
    expect(checkIds(Uint32Array.of(2 ** 32 - 1), 'item').values).toEqual(BigInt64Array.of(2n ** 32n - 1n));
    expect(checkIds([Number.MAX_SAFE_INTEGER, -1, 0], 'item').values).toEqual(
      BigInt64Array.of(2n ** 53n - 1n, -1n, 0n),
    );
    expect(checkIds(['007', '', '__proto__', '😀'], 'item').values).toEqual(['007', '', '__proto__', '😀']);
    expect(checkIds([], 'item').values).toHaveLength(0);
  });

  it.each<[string, unknown, number]>([
    ['F17 an unsafe integer', [1, 2 ** 53], 1],
    ['F17 a negative unsafe integer', [-(2 ** 53)], 0],
    ['F18 NaN', [1, NaN], 1],
    ['F18 Infinity', [Infinity], 0],
    ['F18 a fraction', [1, 2, 0.5], 2],
    ['F18 null', [1, null], 1],
    ['F18 undefined', ['a', undefined], 1],
    ['F18 a first null', [null, 1], 0],
    ['F18 a hole', new Array<number>(3), 0],
    ['F18 a hole between', Object.assign([1, 2], { length: 3 }), 2],
    ['mixed strings and numbers', ['a', 1], 1],
    ['mixed numbers and strings', [1, 'a'], 1],
    ['plain bigints', [1n], 0],
    ['an object', [{}], 0],
    ['a lone surrogate', ['a', '\ud800'], 1],
  ])('refuses %s', (_, input, index) => {
    const fault = faultOf(() => checkIds(input, 'item_id'));
    expect(fault.fields).toMatchObject({ index, column: 'item_id', value: (input as unknown[])[index] });
    expect(fault.message).toContain('item_id');
    expect(fault.message).toContain(`at index ${index}`);
  });

  it.each([new Float64Array(2), new Float32Array(2), new Uint8Array(2), null, undefined, 'abc', 7, { length: 1 }])(
    'refuses %o as a whole',
    (input) => {
      expect(faultOf(() => checkIds(input, 'item_id')).fields).toMatchObject({ index: null, column: 'item_id' });
    },
  );
});

describe('columnIds', () => {
  it('F18: takes token and integer columns, refuses others and missing ids', () => {
    const token = { kind: 'token', name: 'u', values: ['1', ''], missing: null } as const;
    expect(columnIds({ ...token, values: ['1', '2'] })).toEqual({ kind: 'string', values: ['1', '2'] });
    const missing = faultOf(() => columnIds({ ...token, values: ['1', ''], missing: Uint8Array.of(0, 1) }));
    expect(missing.fields).toMatchObject({ index: 1, column: 'u' });
    const float = { kind: 'float', name: 't', values: Float64Array.of(1), missing: null } as const;
    expect(faultOf(() => columnIds(float)).message).toContain('float');
  });
});

describe('Vocabulary', () => {
  const anyIds: fc.Arbitrary<Ids> = fc.oneof(
    fc
      .array(fc.oneof(fc.bigInt({ min: -3n, max: 3n }), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })))
      .map((values): Ids => ({ kind: 'int64', values: BigInt64Array.from(values) })),
    fc.array(fc.string({ maxLength: 2 })).map((values): Ids => ({ kind: 'string', values })),
  );

  it('equals its definition, and survives JSON', () => {
    fc.assert(
      fc.property(anyIds, fc.integer({ min: 1, max: 3 }), fc.nat(20), (ids, minCount, cut) => {
        const all = [...ids.values];
        const train = all.slice(0, cut);
        const trainRows = Int32Array.from(train.keys());
        const expected = [...new Set(train)].filter((id) => train.filter((other) => other === id).length >= minCount);
        const built = Vocabulary.build('item', ids, { minCount, trainRows });
        const json: unknown = JSON.parse(JSON.stringify(built));
        for (const vocabulary of [built, Vocabulary.fromJSON('item', json as ReturnType<Vocabulary['toJSON']>)]) {
          expect(vocabulary.size).toBe(expected.length + 1);
          expect(vocabulary.rareIds).toBe(new Set(train).size - expected.length);
          expect([...vocabulary.encode(ids)]).toEqual(all.map((id) => expected.indexOf(id) + 1));
          expected.forEach((id, index) => {
            expect(vocabulary.id(index + 1)).toBe(id);
            expect(vocabulary.count(index + 1)).toBe(train.filter((other) => other === id).length);
          });
        }
      }),
    );
  });

  it('F17: tells neighbours beyond 2^53 apart', () => {
    const ids = checkIds(BigInt64Array.of(7305112233445566778n, 7305112233445566779n), 'item');
    expect([...Vocabulary.build('item', ids).encode(ids)]).toEqual([1, 2]);
  });

  it('gives unknown ids row 0, which has no id', () => {
    const vocabulary = Vocabulary.build('item', checkIds(['a', 'b', 'a'], 'item'), { minCount: 2 });
    expect([...vocabulary.encode(checkIds(['b', 'a', 'c'], 'item'))]).toEqual([UNKNOWN_ROW, 1, UNKNOWN_ROW]);
    expect([vocabulary.id(UNKNOWN_ROW), vocabulary.count(UNKNOWN_ROW), vocabulary.rareIds]).toEqual([null, 0, 1]);
  });

  it('holds one kind of id', () => {
    const vocabulary = Vocabulary.build('item', checkIds(['1'], 'item'));
    const fault = faultOf(() => vocabulary.encode(checkIds([1], 'item')));
    expect(fault.fields).toMatchObject({ column: 'item', index: 0, value: 1n });
  });

  it('refuses a damaged description', () => {
    const json = Vocabulary.build('item', checkIds([1, 2], 'item')).toJSON();
    const damaged = [
      { ...json, format: 'other' as never },
      { ...json, kind: 'float' as never },
      { ...json, ids: ['1', '1'] },
      { ...json, ids: ['1', '2.5'] },
      { ...json, ids: ['1', '9223372036854775808'] },
      { ...json, counts: [1] },
    ];
    for (const other of damaged) expect(() => Vocabulary.fromJSON('item', other)).toThrow(DataError);
  });
});
