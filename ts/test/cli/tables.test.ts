import { describe, expect, it } from 'vitest';
import { resultTable } from '../../src/cli/result_table.js';
import { alignedPairs, bytesText, shortNumber, textTable } from '../../src/cli/text_table.js';

describe('text', () => {
  it('aligns', () => {
    expect(
      alignedPairs([
        ['a', '1'],
        ['long', '2'],
        ['', 'more'],
      ]),
    ).toBe('a     1\nlong  2\n      more\n');
    expect(
      textTable(
        ['n', 'x'],
        [
          ['ab', '1'],
          ['c', '22'],
        ],
      ),
    ).toBe('n    x\nab   1\nc   22\n');
    expect(textTable(['n', 'x'], [['ab', '1']], 'left')).toBe('n   x\nab  1\n');
  });

  it('shortens numbers', () => {
    expect([0, 1023, 1024, 1.5 * 2 ** 20].map(bytesText)).toEqual(['0 B', '1023 B', '1.0 KiB', '1.5 MiB']);
    expect([0, 4.5678, 999.4, 999.6, 48_210, 2.5e6, 3e9, Number.NaN].map(shortNumber)).toEqual([
      '0.00',
      '4.57',
      '999',
      '1.00k',
      '48.2k',
      '2.50M',
      '3.00G',
      '-',
    ]);
  });
});

describe('resultTable', () => {
  it('has the layout of the documents', () => {
    const scores = (value: number) => ({ AUC: value, gAUC: value + 0.001, QAUC: value + 0.002 });
    const table = resultTable(
      [
        { name: 'item mean', known: scores(0.7), fresh: null },
        { name: 'ids only (DIN)', known: scores(0.659), fresh: { AUC: 0.524, gAUC: 0.508, QAUC: null } },
      ],
      'split by time .75/.10/.15, seed 1; rows 14400 / 7200; 1 seed; 20 s on 2 threads',
    );
    expect(table).toBe(
      [
        '                                 known items                  new items',
        '                                 AUC      gAUC     QAUC       AUC      gAUC     QAUC',
        'item mean                        0.700    0.701    0.702      -        -        -',
        'ids only (DIN)                   0.659    0.660    0.661      0.524    0.508    -',
        'split by time .75/.10/.15, seed 1; rows 14400 / 7200; 1 seed; 20 s on 2 threads',
        '',
      ].join('\n'),
    );
  });
});
