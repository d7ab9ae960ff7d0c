import { describe, expect, it } from 'vitest';
import { type ReportContent, reportHtml, writeReport } from '../../src/train/report.js';
import { MemoryEnv } from '../io/memory_env.js';

const picture = { pixels: new Uint8Array(4 * 4 * 3).fill(200), height: 4, width: 4, channels: 3 as const };
const scores = (AUC: number, gAUC: number | null) => ({ AUC, gAUC, QAUC: 0.5 });

const content: ReportContent = {
  title: 'Shop <EM3> & "co"',
  configSummary: { training: 'end_to_end', seed: 7 },
  curves: [
    {
      run: 'ids',
      metric: 'loss',
      part: 'train',
      points: [
        { step: 0, value: 0.7 },
        { step: 10, value: null },
        { step: 20, value: 0.5 },
      ],
    },
    {
      run: 'ids',
      metric: 'AUC',
      part: 'valid',
      points: [
        { step: 10, value: 0.6 },
        { step: 20, value: 0.7 },
      ],
    },
    {
      run: '<b>raw</b>',
      metric: 'AUC',
      part: 'test',
      points: [
        { step: 10, value: 0.65 },
        { step: 20, value: 0.8 },
      ],
    },
    { run: 'ids', metric: 'empty', part: 'test', points: [] },
  ],
  table: {
    rows: [
      { name: 'item mean', known: scores(0.7, null), fresh: null },
      { name: 'end to end', known: scores(0.8, 0.75), fresh: scores(0.77, 0.71) },
      { name: 'best possible', known: scores(0.9, 0.88), fresh: scores(0.86, 0.85), isCeiling: true },
    ],
    footer: 'split by time .75/.10/.15, seed 1',
  },
  neighbours: [
    {
      item: { title: 'red <lamp>', picture, note: 'new' },
      nearest: [
        { item: { title: 'lamp', picture }, cosine: 0.9876 },
        { item: { title: '', picture: null }, cosine: -0.2 },
      ],
    },
  ],
  notes: ['one & only'],
};

describe('report', () => {
  it('is one page that asks for nothing from outside and runs nothing', async () => {
    const html = await reportHtml(content);
    expect(html).toContain("default-src 'none'");
    expect(html).not.toMatch(/<script|<link|@import|url\(/);
    const addresses = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, address]) => address!);
    expect(addresses.length).toBe(2);
    for (const address of addresses) expect(address).toMatch(/^data:image\/png;base64,/);
  });

  it('escapes what comes from data', async () => {
    const html = await reportHtml(content);
    expect(html).toContain('<h1>Shop &lt;EM3&gt; &amp; &quot;co&quot;</h1>');
    expect(html).toContain('red &lt;lamp&gt;');
    expect(html).not.toContain('<lamp>');
    expect(html).not.toContain('<b>raw</b>');
  });

  it('shows the table with the best of each column, the ceiling apart', async () => {
    const html = await reportHtml(content);
    expect(html).toContain(
      '<tr><th scope="row">item mean</th><td class="">0.700</td><td class="absent">–</td><td class="best">0.500</td><td class="absent edge">–</td>',
    );
    expect(html).toContain('<td class="best">0.800</td><td class="best">0.750</td>');
    expect(html).toContain('<tr class="ceiling"><th scope="row">best possible</th><td class="">0.900</td>');
    expect(html).toContain('split by time .75/.10/.15, seed 1');
  });

  it('draws one chart per metric with all runs in it', async () => {
    const html = await reportHtml(content);
    expect(html.match(/<svg/g)?.length).toBe(2);
    expect(html.match(/aria-roledescription="line mark"/g)?.length).toBeGreaterThanOrEqual(3);
    expect(html).toContain('stroke="#3b82f6"');
    expect(html).toContain('stroke="#f97316"');
  });

  it('shows items, neighbours and cosines', async () => {
    const html = await reportHtml(content);
    expect(html).toContain('<span class="cosine">0.988</span>');
    expect(html).toContain('<span class="cosine">-0.200</span><span class="meter"><span style="width:0%">');
    expect(html).toContain('no picture');
    expect(html).toContain('<span class="note">new</span>');
  });

  it('shows photographs smaller, in three channels or one', async () => {
    const photo = { pixels: new Uint8Array(300 * 200).fill(90), height: 300, width: 200, channels: 1 as const };
    const html = await reportHtml({ ...content, neighbours: [{ item: { title: 'p', picture: photo }, nearest: [] }] });
    expect(html).toContain('<img class="picture" alt="p" src="data:image/jpeg;base64,');
  });

  it('leaves out what is not there, and writes the same bytes twice', async () => {
    const empty = { title: 'x', configSummary: {}, curves: [], table: null, neighbours: [], notes: [] };
    expect(await reportHtml(empty)).not.toContain('<section>');
    const env = MemoryEnv.empty();
    await env.makeDirectory('run');
    await writeReport('run/report.html', content, env);
    expect(Buffer.from(await env.read('run/report.html')).toString()).toBe(await reportHtml(content));
  });
});
