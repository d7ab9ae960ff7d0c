/** The encoders of a model as ONNX graphs: items to the vectors that the ranker reads, query texts to theirs. */

import type { Dataset } from '../data/dataset.js';
import type { Batch, TokenBatch } from '../data/loader/batch.js';
import { OnnxGraph, type OnnxValue } from '../io/onnx.js';
import type { RuntimeTensor } from '../io/onnx_runtime.js';
import type { HostTensor } from '../io/safetensors.js';
import type { ItemContent } from '../models/content.js';
import { Em3 } from '../models/em3.js';
import { Lemur } from '../models/lemur.js';
import type { TextEncoder } from '../nn/text_encoder.js';
import { tidy } from '../tidy.js';
import { type GraphCheck, onnxFiles, PARITY_ROWS } from './onnx_check.js';
import { ModuleTranslation, type Tokens } from './onnx_modules.js';
import type { ViewSource } from './ranker_view.js';
import { pickRows } from './vector_store.js';

type Weights = ReadonlyMap<string, HostTensor>;

/** What the graphs are compared on. */
interface EncoderRows {
  readonly batch: Batch;
  /** Item rows with a vector. */
  readonly items: Int32Array;
}

/** The graphs of the encoders that a model has, with rows to compare them on. */
export async function encoderGraphs(
  source: ViewSource,
  data: Dataset,
  weights: Weights,
  { batch, items }: EncoderRows,
): Promise<GraphCheck[]> {
  const { model } = source;
  if (source.vectors === null) return [];
  const checks = [await itemCheck(source, data, weights, items)];
  const query = model instanceof Em3 || model instanceof Lemur ? (model.content?.query ?? null) : null;
  if (query !== null && batch.queries !== null)
    checks.push(await queryCheck(source, weights, query, batch.queries.text));
  return checks;
}

// ---- queries

async function queryCheck(
  { model }: ViewSource,
  weights: Weights,
  encoder: TextEncoder,
  texts: TokenBatch,
): Promise<GraphCheck> {
  const graph = new OnnxGraph('query_encoder');
  const translation = new ModuleTranslation(graph, model, weights);
  const vectors = translation.textVectors(encoder, translation.textInputs('text', encoder));
  // The last of them is empty: what a missing query gives.
  const offsets = Int32Array.from([...texts.offsets, texts.offsets.at(-1)!]);
  const asked = { ...texts, offsets };
  const encoded = tidy(() => model.served!.queries(asked)!);
  const expected = Float32Array.from((await encoded.values()) as Float32Array);
  graph.output('query_vector', vectors, 'float32', ['batch', encoded.shape[1]!]);
  encoded.dispose();
  return {
    file: onnxFiles.queryEncoder,
    graph,
    rows: offsets.length - 1,
    feeds: textFeeds('text', asked),
    expected: new Map([['query_vector', expected]]),
  };
}

/** Texts padded to the longest of them, at least one place. */
export function textFeeds(name: string, texts: TokenBatch): Map<string, RuntimeTensor> {
  const { offsets } = texts;
  const n = offsets.length - 1;
  const length = Math.max(1, ...Array.from({ length: n }, (_, b) => offsets[b + 1]! - offsets[b]!));
  const shape = [n, length];
  const present = new Uint8Array(n * length);
  const columns = (['tokens', 'types', 'positions'] as const).map(
    (column) => [column, new BigInt64Array(n * length)] as const,
  );
  for (let b = 0; b < n; b++)
    for (let at = offsets[b]!; at < offsets[b + 1]!; at++) {
      const place = b * length + at - offsets[b]!;
      present[place] = 1;
      for (const [column, values] of columns) values[place] = BigInt(texts[column][at]!);
    }
  const feeds = new Map<string, RuntimeTensor>();
  for (const [column, values] of columns) feeds.set(`${name}.${column}`, { dtype: 'int64', shape, data: values });
  return feeds.set(`${name}.present`, { dtype: 'bool', shape, data: present });
}

// ---- items

async function itemCheck(source: ViewSource, data: Dataset, weights: Weights, items: Int32Array): Promise<GraphCheck> {
  const { model } = source;
  const { width, found, targets, history } = source.vectors!;
  const graph = new OnnxGraph('encoder');
  const translation = new ModuleTranslation(graph, model, weights);
  const rows = items.filter((item) => found[item] === 1).slice(0, PARITY_ROWS);
  const content = await data.itemContent(rows);
  const vectors = model instanceof Em3 ? em3Vectors(translation, model) : lemurVectors(translation, model as Lemur);
  graph.output('item_vector', vectors.target, 'float32', ['batch', width]);
  graph.output('history_vector', vectors.history, 'float32', ['batch', width]);
  // LEMUR's evaluation reads what training stored; the graph gives what its encoder gives now.
  const fresh = model instanceof Lemur ? await encoded(model, content) : null;
  const expected = new Map([
    ['item_vector', fresh ?? pickRows(targets, rows, width)],
    ['history_vector', fresh ?? pickRows(history, rows, width)],
  ]);
  const all = contentFeeds(content);
  const feeds = new Map(graph.inputs.map(({ name }) => [name, all.get(name)!]));
  return { file: onnxFiles.encoder, graph, rows: rows.length, feeds, expected };
}

async function encoded(model: Lemur, content: ItemContent): Promise<Float32Array> {
  const x = tidy(() => model.served!.encode(content));
  const values = Float32Array.from((await x.values()) as Float32Array);
  x.dispose();
  return values;
}

function contentFeeds({ text, image, vectors = {} }: ItemContent): Map<string, RuntimeTensor> {
  const feeds = new Map<string, RuntimeTensor>();
  if (text !== null) for (const [name, tensor] of textFeeds('text', text)) feeds.set(name, tensor);
  if (image !== null) {
    const { size, pixels, present } = image;
    feeds.set('image.pixels', { dtype: 'uint8', shape: [present.length, size, size, 3], data: pixels });
    feeds.set('image.present', { dtype: 'bool', shape: [present.length], data: present });
  }
  for (const [name, { values, present, dim }] of Object.entries(vectors)) {
    feeds.set(name, { dtype: 'float32', shape: [present.length, dim], data: values });
    feeds.set(`${name}.present`, { dtype: 'bool', shape: [present.length], data: present });
  }
  return feeds;
}

/** Input `<name>.present` (batch) as (B, 1) float32. */
function presentInput(t: ModuleTranslation, name: string): OnnxValue {
  const g = t.graph;
  return g.node('Unsqueeze', [t.float(g.input(`${name}.present`, 'bool', ['batch'])), g.integers([1])]);
}

/** Vectors (B, W) as a token each. */
function oneToken({ graph: g }: ModuleTranslation, vectors: OnnxValue, present: OnnxValue): Tokens {
  return { x: g.node('Unsqueeze', [vectors, g.integers([1])]), present };
}

function em3Vectors(t: ModuleTranslation, { content }: Em3): { target: OnnxValue; history: OnnxValue } {
  const part = content!;
  const g = t.graph;
  const modalities = new Map<string, Tokens>();
  for (const name of part.fusion.project.keys()) {
    if (part.given.includes(name)) {
      const dim = part.fusion.project.get(name)!.inFeatures;
      modalities.set(name, oneToken(t, g.input(name, 'float32', ['batch', dim]), presentInput(t, name)));
    } else if (name === 'text') {
      const inputs = t.textInputs('text', part.text!);
      const whole = (): Tokens => oneToken(t, t.textVectors(part.text!, inputs), t.any(inputs.present));
      modalities.set(name, part.exact ? whole() : t.textTokens(part.text!, inputs));
    } else {
      const size = t.pictureSize(part.image!);
      const pixels = g.input('image.pixels', 'uint8', ['batch', size, size, 3]);
      const there = presentInput(t, 'image');
      const each = (): Tokens => {
        const { tokenCount } = part.image!;
        const patches = t.pictureTokens(part.image!, pixels);
        const x = part.cacheTokens === null ? patches : t.pooledTokens(patches, tokenCount, part.cacheTokens);
        return { x, present: g.node('Mul', [t.ones(x, part.imageTokens(tokenCount)), there]) };
      };
      modalities.set(name, part.exact ? oneToken(t, t.pictureVectors(part.image!, pixels), there) : each());
    }
  }
  const flattened = t.fused(part.fusion, modalities);
  const target = t.linear(part.fusion.last, flattened, 2);
  if (part.update !== null) return { target, history: t.linear(part.update, flattened, 2) };
  if (part.snapshot === null) return { target, history: target };
  return { target, history: t.linear(part.snapshot.last, t.fused(part.snapshot, modalities), 2) };
}

function lemurVectors(t: ModuleTranslation, { content }: Lemur): { target: OnnxValue; history: OnnxValue } {
  const { document } = content!;
  const g = t.graph;
  const text = document.readsText ? t.textInputs('text', document.text) : null;
  const size = document.image === null ? 0 : t.pictureSize(document.image);
  const picture =
    document.image === null
      ? null
      : {
          pixels: g.input('image.pixels', 'uint8', ['batch', size, size, 3]),
          present: presentInput(t, 'image'),
        };
  const vectors = t.document(document, text, picture);
  return { target: vectors, history: vectors };
}
