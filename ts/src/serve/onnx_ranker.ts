/** The ranker of a model as an ONNX graph: from ids, numbers and stored item vectors to scores. */

import type { Dataset } from '../data/dataset.js';
import type { Batch } from '../data/loader/batch.js';
import { OnnxGraph } from '../io/onnx.js';
import type { HostTensor } from '../io/safetensors.js';
import type { RecommenderModel } from '../models/model.js';
import type { Tensor } from '../tensor.js';
import { tidy } from '../tidy.js';
import { ModuleTranslation } from './onnx_modules.js';
import { type Probe, TraceTranslation } from './onnx_trace.js';
import { traceOps } from './op_trace.js';
import { probeBatch } from './probe_batch.js';
import { type ItemVectors, nameTaken, type RankerView, rankerView, type ViewSource } from './ranker_view.js';

/** Batch sizes of the two probes. */
const PROBE_SIZES = [5, 7] as const;

async function host(make: () => Tensor): Promise<Float32Array> {
  const x = tidy(make);
  const values = Float32Array.from((await x.values()) as Float32Array);
  x.dispose();
  return values;
}

/** Vectors of `items` as an evaluation reads them now: the model's overlay holds them. Null for a model of ids alone. */
export async function readItemVectors(
  model: RecommenderModel,
  data: Dataset,
  items: Int32Array,
  step: number,
): Promise<ItemVectors | null> {
  const { served } = model;
  if (served === null) return null;
  const count = data.schema.items;
  const [targets, history] = [
    await host(() => model.contentVectors(items, step)!),
    await host(() => served.history(items, step)),
  ];
  const width = items.length === 0 ? 0 : targets.length / items.length;
  const steps = (await served.table().steps.data()) as Int32Array;
  const spread = (rows: Float32Array): Float32Array => {
    const all = new Float32Array(count * width);
    items.forEach((item, i) => {
      if (steps[item]! >= 0) all.set(rows.subarray(i * width, (i + 1) * width), item * width);
    });
    return all;
  };
  const found = Uint8Array.from({ length: count }, (_, item) => (steps[item]! >= 0 ? 1 : 0));
  return { width, targets: spread(targets), history: spread(history), found };
}

/** The view of a batch, its queries encoded. */
export async function viewOf(source: ViewSource, batch: Batch): Promise<RankerView> {
  const { served } = source.model;
  const { queries } = batch;
  let vectors: Float32Array | null = null;
  if (served !== null && source.vectors !== null && queries !== null) {
    const encoded = tidy(() => served.queries(queries.text));
    if (encoded !== null) {
      const width = encoded.shape[1]!;
      const rows = (await encoded.values()) as Float32Array;
      encoded.dispose();
      vectors = new Float32Array(batch.size * width);
      queries.index.forEach((query, b) => {
        vectors!.set(rows.subarray(query * width, (query + 1) * width), b * width);
      });
    }
  }
  return rankerView(source, batch, vectors);
}

/** Logits (B) by the names of the graph's outputs: `score`, and `score.<label>` of each other label that the model learned. */
export function scoresOf(model: RecommenderModel, batch: Batch, step: number): Map<string, Tensor> {
  const tasks = [...(model.predictTasks?.(batch, step) ?? new Map([['', model.predict(batch, step)]]))];
  return new Map(tasks.map(([label, x], task) => [task === 0 ? 'score' : `score.${label}`, x]));
}

/**
 * The graph of the scores, outputs as of `scoresOf`, (batch) float32. Its inputs are named by `rankerFeeds`; those that scores do not read are
 * left out. Throws `OnnxExportError` that names the op without a translation.
 */
export async function rankerGraph(
  source: ViewSource,
  data: Dataset,
  step: number,
  weights: ReadonlyMap<string, HostTensor>,
): Promise<OnnxGraph> {
  const { model, vectors } = source;
  const usable = Int32Array.from([...data.items.ids.keys()].filter((item) => vectors?.found[item] !== 0));
  const historyLen = Math.max(0, ...(model.served?.histories ?? []).map(({ length }) => length));
  const probes: Probe[] = [];
  const sizes = PROBE_SIZES.map((wanted, i) => Math.max(1, Math.min(wanted, usable.length - 1 + i)));
  for (const [i, size] of sizes.entries()) {
    const batch = await probeBatch(data, { size, smallest: sizes[0]!, seed: i + 1, items: usable, historyLen });
    const view = await viewOf(source, batch);
    probes.push({ view, trace: await traceOps(model, () => scoresOf(model, batch, step)) });
  }
  const graph = new OnnxGraph('ranker');
  const modules = new ModuleTranslation(graph, model, weights);
  const translation = new TraceTranslation(modules, [probes[0]!, probes[1]!]);
  for (const [name, value] of translation.results()) {
    if (graph.inputs.some((input) => input.name === name)) throw nameTaken(name);
    graph.output(name, value, 'float32', ['batch']);
  }
  return graph;
}
