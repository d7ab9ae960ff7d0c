/** From waiting requests to the batch that an evaluation would have made of their rows. */
import type { Batch, Jagged, TokenBatch } from '../data/loader/batch.js';
import type { EntityTable, FeatureRow } from './feature_values.js';
import type { GivenVectors } from './given_vectors.js';
import { joinTexts } from './item_encoder.js';
import type { ServedModel } from './served_model.js';
import type { VectorStore } from './vector_store.js';

export interface Prediction {
  /** (n) logits in the order of the candidates; the probability of a click is 1 / (1 + exp(-score)). */
  readonly scores: Float32Array;
  /** (n) the same of the other labels that the model learns, by label. */
  readonly others: Readonly<Record<string, Float32Array>>;
  /** (n) 1 where the candidate has a vector; 0: it was scored with the learned missing vector and waits to be encoded. */
  readonly found: Uint8Array;
  /** Step of the weights. */
  readonly step: number;
}

/** One export in use. Requests hold it, so that all candidates of a request meet the same weights. */
export interface State {
  readonly served: ServedModel;
  readonly items: EntityTable;
  readonly users: EntityTable;
  readonly vectors: VectorStore | null;
  /** Given vectors that the ranker reads as they are. */
  readonly given: readonly GivenVectors[];
  /** Items that there is room for: those of the table and new ones. */
  readonly capacity: number;
  readonly since: number;
  /** Ids whose encoded vector was refused: asking again would not help. */
  readonly hopeless: Set<string>;
  requests: number;
  retired: boolean;
}

export interface Waiting {
  readonly state: State;
  /** Features of request, user and query. */
  readonly row: FeatureRow;
  readonly history: Int32Array;
  readonly gaps: Float32Array | null;
  readonly query: TokenBatch | null;
  /** (n) item numbers. */
  readonly candidates: Int32Array;
  readonly scores: Float32Array;
  readonly others: Record<string, Float32Array>;
  readonly found: Uint8Array;
  /** Candidates that a batch has taken, and that are scored. */
  taken: number;
  done: number;
  readonly resolve: (prediction: Prediction) => void;
  readonly reject: (error: unknown) => void;
}

/** Candidates `from` .. `to` of a request. */
export interface Part {
  readonly request: Waiting;
  readonly from: number;
  readonly to: number;
}

/** What a batch says of where its rows stand in the data, for rows that are no events. */
export function rowsOfNoEvent(
  size: number,
): Pick<Batch, 'part' | 'epoch' | 'position' | 'end' | 'size' | 'events' | 'user' | 'session'> {
  const none = new Int32Array(size);
  return {
    part: 'test',
    epoch: 0,
    position: 0,
    end: size,
    size,
    events: none,
    user: none,
    session: none.map(() => -1),
  };
}

/** A batch as evaluation has it; item rows are rows of the vector table. */
export function batchOf({ served, items, vectors, given }: State, parts: readonly Part[]): Batch {
  const { schema, historyLen } = served.serving;
  const size = parts.reduce((total, { from, to }) => total + to - from, 0);
  const owner = new Int32Array(size);
  const candidates = new Int32Array(size);
  let at = 0;
  parts.forEach(({ request, from, to }, p) => {
    candidates.set(request.candidates.subarray(from, to), at);
    owner.fill(p, at, at + to - from);
    at += to - from;
  });
  const rowOf = (b: number): FeatureRow => parts[owner[b]!]!.request.row;
  const categorical: Record<string, Int32Array> = {};
  const numeric: Record<string, Float32Array> = {};
  const sequences: Record<string, Jagged> = {};
  for (const feature of schema.features) {
    const { name, type, source } = feature;
    const ofItem = source === 'item';
    if (type === 'categorical')
      categorical[name] = Int32Array.from({ length: size }, (_, b) =>
        ofItem ? items.categorical(name, candidates[b]!) : rowOf(b).categorical.get(name)!,
      );
    else if (type === 'numeric')
      numeric[name] = Float32Array.from({ length: size }, (_, b) =>
        ofItem ? items.numeric(name, candidates[b]!) : rowOf(b).numeric.get(name)!,
      );
    else if (type === 'sequence')
      sequences[name] = jagged(size, (b) =>
        ofItem ? items.sequence(name, candidates[b]!) : rowOf(b).sequences.get(name)!,
      );
    else if (type === 'history') {
      const past = parts.map(({ request }) =>
        request.history.slice(-feature.maxLen).map((item) => items.categorical(feature.of, item)),
      );
      sequences[name] = withGaps(
        jagged(size, (b) => past[owner[b]!]!),
        parts,
        owner,
      );
    }
  }
  const rows = vectors === null ? new Int32Array(size) : candidates.map((item) => vectors.targetRow(item));
  const clicks = parts.map(({ request }) =>
    vectors === null || historyLen === 0
      ? new Int32Array(0)
      : request.history.slice(-historyLen).map((item) => vectors.historyRow(item)),
  );
  const content = vectors?.content(candidates) ?? { text: null, image: null, vectors: {} };
  const inputs = Object.fromEntries(given.map((feature) => [feature.name, feature.gather(candidates)]));
  const texts = parts.flatMap(({ request }) => (request.query === null ? [] : [request.query]));
  return {
    ...rowsOfNoEvent(size),
    labels: {},
    categorical,
    numeric,
    sequences,
    items: {
      rows,
      index: Int32Array.from(rows.keys()),
      ...content,
      vectors: { ...content.vectors, ...inputs },
    },
    queries: texts.length === 0 ? null : { rows: Int32Array.from(parts.keys()), index: owner, text: joinTexts(texts) },
    history:
      historyLen === 0
        ? null
        : withGaps(
            jagged(size, (b) => clicks[owner[b]!]!),
            parts,
            owner,
          ),
  };
}

/** Histories with the time gaps of their requests, where those have any. */
function withGaps(histories: Jagged, parts: readonly Part[], owner: Int32Array): Jagged {
  if (parts[0]!.request.gaps === null) return histories;
  const { values, offsets } = histories;
  const gaps = new Float32Array(values.length);
  owner.forEach((part, b) => {
    const own = parts[part]!.request.gaps!;
    gaps.set(own.subarray(own.length - (offsets[b + 1]! - offsets[b]!)), offsets[b]);
  });
  return { ...histories, gaps };
}

/** Lists of `size` rows one after the other. */
function jagged(size: number, list: (b: number) => Int32Array): Jagged {
  const offsets = new Int32Array(size + 1);
  for (let b = 0; b < size; b++) offsets[b + 1] = offsets[b]! + list(b).length;
  const values = new Int32Array(offsets[size]!);
  for (let b = 0; b < size; b++) values.set(list(b), offsets[b]);
  return { values, offsets };
}
