import { setImmediate } from 'node:timers/promises';
import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';

/** One line of a chart; null values leave a gap. */
export interface ReportCurve {
  /** Label of the run; lines of one run share a colour. */
  readonly run: string;
  /** What is measured; each metric gets a chart of its own. */
  readonly metric: string;
  /** Lines of one part share a dash, where a chart has several parts. */
  readonly part: 'train' | 'window' | 'valid' | 'test';
  readonly points: readonly { readonly step: number; readonly value: number | null }[];
}

/** Readable on light and on dark ground, and apart for colour-blind eyes. */
const SERIES = ['#3b82f6', '#f97316', '#10a37f', '#c026d3', '#ca8a04', '#64748b', '#ef4444', '#0ea5e9'];
const SOLID = [1, 0];
const DASHES: Readonly<Record<ReportCurve['part'], number[]>> = {
  train: SOLID,
  window: [4, 1],
  valid: [6, 3],
  test: [2, 2],
};

/** Colour of each run, in order of appearance: for the legend that all charts share. */
export function runColours(curves: readonly ReportCurve[]): Map<string, string> {
  const runs = [...new Set(curves.map(({ run }) => run))];
  return new Map(runs.map((run, index) => [run, SERIES[index % SERIES.length]!]));
}

function chartSpec(metric: string, curves: readonly ReportCurve[], colours: ReadonlyMap<string, string>): TopLevelSpec {
  const values = curves.flatMap(({ run, part, points }) =>
    points.map(({ step, value }) => ({ run, part, step, value })),
  );
  const parts = [...new Set(curves.map(({ part }) => part))];
  const isFlat = new Set(values.map(({ value }) => value)).size === 1; // a hit rate of 1: drawn from 0 on
  const isSparse = Math.max(...curves.map(({ points }) => points.length)) <= 30;
  return {
    data: { values },
    title: {
      text: parts.length === 1 ? `${metric} (${parts[0]})` : metric,
      anchor: 'start',
      fontSize: 13,
      fontWeight: 600,
      offset: 10,
    },
    width: 400,
    height: 210,
    mark: { type: 'line', strokeWidth: 2, point: isSparse ? { size: 22 } : false },
    encoding: {
      x: { field: 'step', type: 'quantitative', title: 'step', axis: { grid: false, tickCount: 6 } },
      y: { field: 'value', type: 'quantitative', title: null, scale: { zero: isFlat }, axis: { tickCount: 5 } },
      color: {
        field: 'run',
        type: 'nominal',
        legend: null,
        scale: { domain: [...colours.keys()], range: [...colours.values()] },
      },
      strokeDash: {
        field: 'part',
        type: 'nominal',
        scale: { domain: parts, range: parts.map((part) => (parts.length === 1 ? SOLID : DASHES[part])) },
        legend: parts.length > 1 ? { title: null, orient: 'top-right', symbolStrokeColor: 'currentColor' } : null,
      },
    },
    background: 'transparent',
    // currentColor follows the page into dark mode.
    config: {
      font: 'system-ui, sans-serif',
      view: { stroke: null },
      title: { color: 'currentColor' },
      axis: {
        labelColor: 'currentColor',
        titleColor: 'currentColor',
        titleFontWeight: 'normal',
        labelOpacity: 0.75,
        titleOpacity: 0.75,
        gridColor: 'currentColor',
        gridOpacity: 0.12,
        domainColor: 'currentColor',
        domainOpacity: 0.3,
        tickColor: 'currentColor',
        tickOpacity: 0.3,
      },
      legend: { labelColor: 'currentColor', labelOpacity: 0.75 },
    },
  };
}

/** One SVG per metric, in order of appearance, with the lines of all runs over each other. */
export async function renderCurves(curves: readonly ReportCurve[]): Promise<{ metric: string; svg: string }[]> {
  const colours = runColours(curves);
  const charts: { metric: string; svg: string }[] = [];
  for (const metric of new Set(curves.map((curve) => curve.metric))) {
    const lines = curves.filter((curve) => curve.metric === metric && curve.points.length > 0);
    if (lines.length === 0) continue;
    const view = new View(parse(compile(chartSpec(metric, lines, colours)).spec), { renderer: 'none' });
    charts.push({ metric, svg: await view.toSVG() });
    view.finalize();
    await setImmediate(); // a chart takes long enough
  }
  return charts;
}
