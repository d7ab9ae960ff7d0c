/**
 * report.html: one file that needs nothing else, with curves, the table of results, and items beside their neighbours in content space.
 */
import sharp from 'sharp';
import { type Env, nodeEnv, replaceFile } from '../io/env.js';
import { type ReportCurve, renderCurves, runColours } from './report_curves.js';
import { REPORT_STYLE } from './report_style.js';

export type { ReportCurve } from './report_curves.js';

/** Metrics of one slice; null where no group is eligible. */
export interface ReportScores {
  readonly AUC: number | null;
  readonly gAUC: number | null;
  readonly QAUC: number | null;
}

/** One line of the table; a slice is null where the row has no meaning there. */
export interface ReportRow {
  readonly name: string;
  readonly known: ReportScores | null;
  readonly fresh: ReportScores | null;
  /** The best that is possible: set apart, and out of the running for the best value of a column. */
  readonly isCeiling?: boolean;
}

/** Pixels of a picture: uint8, (height, width, channels), row-major; 1, 3 or 4 channels. */
export interface ReportPicture {
  readonly pixels: Uint8Array;
  readonly height: number;
  readonly width: number;
  readonly channels: 1 | 3 | 4;
}

/** An item as it is shown; `note` is a small label, such as `new`. */
export interface ReportItem {
  readonly title: string;
  readonly picture: ReportPicture | null;
  readonly note?: string;
}

export interface ReportContent {
  readonly title: string;
  /** Settings worth seeing, in order: name and value. */
  readonly configSummary: Readonly<Record<string, string | number | boolean>>;
  readonly curves: readonly ReportCurve[];
  /** `footer` says split, rows, seeds and time: no metric is shown without them. */
  readonly table: { readonly rows: readonly ReportRow[]; readonly footer: string } | null;
  /** Items, each with its nearest neighbours (nearest first) and their cosines. */
  readonly neighbours: readonly {
    readonly item: ReportItem;
    readonly nearest: readonly { readonly item: ReportItem; readonly cosine: number }[];
  }[];
  readonly notes: readonly string[];
}

const METRICS = ['AUC', 'gAUC', 'QAUC'] as const;
const SLICES = ['known', 'fresh'] as const;
/** Pictures up to this side are shown exactly, pixel by pixel; larger ones are photographs and become JPEGs of `PICTURE_SIDE`. */
const SMALL_SIDE = 64;
const PICTURE_SIDE = 192;

function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replaceAll(/[&<>"']/g, (character) => entities[character]!);
}

async function pictureHtml({ picture, title }: ReportItem): Promise<string> {
  if (picture === null) return '<span class="picture none">no picture</span>';
  const { pixels, height, width, channels } = picture;
  const isSmall = Math.max(height, width) <= SMALL_SIDE;
  const image = sharp(pixels, { raw: { width, height, channels } });
  const bytes = isSmall
    ? await image.png().toBuffer()
    : await image.resize(PICTURE_SIDE, PICTURE_SIDE, { fit: 'inside' }).jpeg({ quality: 85 }).toBuffer();
  const address = `data:image/${isSmall ? 'png' : 'jpeg'};base64,${bytes.toString('base64')}`;
  return `<img class="picture${isSmall ? ' small' : ''}" alt="${escapeHtml(title)}" src="${address}">`;
}

function titleHtml({ title, note }: ReportItem): string {
  const label = note === undefined ? '' : ` <span class="note">${escapeHtml(note)}</span>`;
  return `<span class="name" title="${escapeHtml(title)}">${escapeHtml(title) || '<i>no title</i>'}${label}</span>`;
}

async function neighboursHtml(neighbours: ReportContent['neighbours']): Promise<string> {
  const rows = neighbours.map(async ({ item, nearest }) => {
    const cards = nearest.map(async ({ item: other, cosine }) => {
      const share = Math.round(Math.max(0, Math.min(1, cosine)) * 100);
      const meter = `<span class="meter"><span style="width:${share}%"></span></span>`;
      return `<li>${await pictureHtml(other)}<span class="cosine">${cosine.toFixed(3)}</span>${meter}${titleHtml(other)}</li>`;
    });
    return `<div class="item"><div class="query">${await pictureHtml(item)}${titleHtml(item)}</div><ol>${(await Promise.all(cards)).join('')}</ol></div>`;
  });
  return (await Promise.all(rows)).join('\n');
}

/** Largest value of each column among the rows that compete. */
function bestOf(rows: readonly ReportRow[], slice: (typeof SLICES)[number], metric: (typeof METRICS)[number]): number {
  return Math.max(
    ...rows.filter(({ isCeiling }) => !isCeiling).map((row) => row[slice]?.[metric] ?? Number.NEGATIVE_INFINITY),
  );
}

function tableHtml(rows: readonly ReportRow[], footer: string): string {
  const cell = (row: ReportRow, slice: (typeof SLICES)[number], metric: (typeof METRICS)[number]): string => {
    const value = row[slice]?.[metric] ?? null;
    const edge = slice === 'fresh' && metric === 'AUC' ? ' edge' : '';
    if (value === null) return `<td class="absent${edge}">–</td>`;
    const isBest = !row.isCeiling && value === bestOf(rows, slice, metric);
    return `<td class="${isBest ? 'best' : ''}${edge}">${value.toFixed(3)}</td>`;
  };
  const body = rows.map((row) => {
    const cells = SLICES.flatMap((slice) => METRICS.map((metric) => cell(row, slice, metric)));
    return `<tr${row.isCeiling ? ' class="ceiling"' : ''}><th scope="row">${escapeHtml(row.name)}</th>${cells.join('')}</tr>`;
  });
  const metrics = METRICS.map((metric) => `<th scope="col">${metric}</th>`).join('');
  return `<div class="scroll"><table>
<thead><tr><td></td><th colspan="3" scope="colgroup">known items</th><th colspan="3" scope="colgroup" class="edge">new items</th></tr>
<tr><td></td>${metrics}${metrics.replace('<th', '<th class="edge"')}</tr></thead>
<tbody>
${body.join('\n')}
</tbody></table></div>
<p class="footer">${escapeHtml(footer)}</p>`;
}

async function curvesHtml(curves: readonly ReportCurve[]): Promise<string> {
  const legend = [...runColours(curves)]
    .map(([run, colour]) => `<li><span style="background:${colour}"></span>${escapeHtml(run)}</li>`)
    .join('');
  const charts = await renderCurves(curves);
  const figures = charts.map(({ metric, svg }) => `<figure aria-label="${escapeHtml(metric)}">${svg}</figure>`);
  return `<ul class="legend">${legend}</ul><div class="charts">${figures.join('\n')}</div>`;
}

const section = (heading: string, content: string, lead = '') =>
  content === ''
    ? ''
    : `<section><h2>${heading}</h2>${lead === '' ? '' : `<p class="lead">${lead}</p>`}\n${content}\n</section>`;

/** The page as text. No script, and a content policy that forbids anything from outside. */
export async function reportHtml(content: ReportContent): Promise<string> {
  const { title, configSummary, curves, table, neighbours, notes } = content;
  const settings = Object.entries(configSummary)
    .map(([key, value]) => `<div><dt>${escapeHtml(key)}</dt><dd>${escapeHtml(String(value))}</dd></div>`)
    .join('');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${escapeHtml(title)}</title>
<style>${REPORT_STYLE}</style>
</head>
<body>
<header><h1>${escapeHtml(title)}</h1><dl>${settings}</dl></header>
<main>
${section('Results', table === null ? '' : tableHtml(table.rows, table.footer))}
${section('Curves', curves.length === 0 ? '' : await curvesHtml(curves))}
${section(
  'Nearest neighbours in learned content space',
  await neighboursHtml(neighbours),
  'Left, an item; right, the items whose content vectors lie closest, with the cosine between them.',
)}
${section('Notes', notes.length === 0 ? '' : `<ul>${notes.map((note) => `<li>${escapeHtml(note)}</li>`).join('')}</ul>`)}
</main>
</body>
</html>
`;
}

/** Writes `report.html`, replacing an earlier one whole. Throws `StorageError`. */
export async function writeReport(path: string, content: ReportContent, env: Env = nodeEnv): Promise<void> {
  await replaceFile(env, path, Buffer.from(await reportHtml(content)));
}
