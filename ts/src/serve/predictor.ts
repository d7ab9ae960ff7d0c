/**
 * Scores candidates from ids and stored item vectors alone: no item encoder is loaded (models.md 11). Requests that wait together are scored
 * in one batch; a score does not depend on what else is in it. On the CPU scores are those of the evaluation, bit for bit.
 */
import type { TokenBatch } from '../data/loader/batch.js';
import { featuresOf } from '../data/schema.js';
import { ArgumentError, DisposedError, QueueFullError } from '../errors.js';
import type { DeviceName } from '../tensor.js';
import { tidy } from '../tidy.js';
import { inPrecision } from '../train/evaluate.js';
import { addItems } from './add_items.js';
import { type FeatureRow, type Fields, fieldOf, type IdValue, idText, tableFeatures } from './feature_values.js';
import { type EncodedItems, type ItemEncoder, type NewItem, words } from './item_encoder.js';
import { openState, release } from './open_state.js';
import type { ServedModel } from './served_model.js';
import { batchOf, type Part, type Prediction, type State, type Waiting } from './serving_batch.js';
import type { VectorAges } from './vector_store.js';

export interface PredictorOptions {
  /** Default auto. */
  readonly device?: DeviceName | 'auto';
  /** Candidates scored in one batch. Default 4096. */
  readonly maxBatch?: number;
  /** Candidates that may wait; a request beyond them is refused with `QueueFullError`. Default 65,536. */
  readonly maxQueued?: number;
  /** New items that `add` has room for. Default 10,000. */
  readonly room?: number;
  /**
   * Item vectors stay in their file, mapped: processes that serve the same export share one copy, and opening it takes no memory for them.
   * On the CPU alone. The export must not be changed or cut while it is served. Default false.
   */
  readonly mapped?: boolean;
  /** Ids that `pending` remembers; more are counted and forgotten. Default 100,000. */
  readonly maxPending?: number;
}

/** Who asks, and what is to be scored. Ids as in the training data: strings, bigints or safe integers. */
export interface PredictRequest {
  readonly user: IdValue | null;
  /** Features of the request and of the user by name; what is absent is unknown (numbers: the train mean). */
  readonly context?: Fields;
  /** The query text, or the fields of the query by name. */
  readonly query?: string | Fields | null;
  /** Items that the user chose before, oldest first. */
  readonly history?: readonly IdValue[];
  /** How long before the request each of them was, in units of the data's times: for rankers that read time gaps (SIM, LONGER). */
  readonly historyGaps?: readonly number[];
  readonly candidates: readonly IdValue[];
}

export interface PredictorStats {
  /** Of the export that is served: step, id, seconds since it was opened. */
  readonly step: number;
  readonly id: string;
  readonly secondsServed: number;
  /** Items with a vector, rows of the item table, and ages in steps of the vectors when they were exported. */
  readonly vectors: number;
  readonly items: number;
  readonly ages: VectorAges | null;
  /** Since `open`. */
  readonly requests: number;
  readonly batches: number;
  readonly candidates: number;
  /** Candidates without a vector, and history items that were masked for that reason. */
  readonly missingCandidates: number;
  readonly missingHistory: number;
  readonly unknownUsers: number;
  /** Values of requests that training had not seen, or that were absent. */
  readonly unknownValues: number;
  /** Requests whose query text went through the query encoder. */
  readonly queriesEncoded: number;
  readonly refusedRequests: number;
  readonly added: number;
  /** Added vectors that were zero or not finite. */
  readonly refusedVectors: number;
  readonly refreshes: number;
  readonly pending: number;
  readonly pendingForgotten: number;
}

/** Batches on the device: one runs while the next is made. */
const IN_FLIGHT = 2;

export class Predictor implements AsyncDisposable {
  #state: State;
  readonly #options: Required<PredictorOptions>;
  readonly #waiting: Waiting[] = [];
  readonly #pending = new Set<string>();
  #queued = 0;
  readonly #running = new Set<Promise<void>>();
  #closed = false;
  /** The last `refresh` or `add`: they run one after the other. */
  #change: Promise<unknown> = Promise.resolve();
  readonly #counts = {
    requests: 0,
    batches: 0,
    candidates: 0,
    missingCandidates: 0,
    missingHistory: 0,
    unknownUsers: 0,
    queriesEncoded: 0,
    refusedRequests: 0,
    added: 0,
    refusedVectors: 0,
    refreshes: 0,
    pendingForgotten: 0,
  };
  #unknownBefore = 0;

  private constructor(state: State, options: Required<PredictorOptions>) {
    this.#state = state;
    this.#options = options;
  }

  /**
   * Opens the folder of an export. Throws `ExportMismatchError` that names what is missing, altered or of another step,
   * `DeviceUnavailableError`, `StorageError`.
   */
  static async open(folder: string, options: PredictorOptions = {}): Promise<Predictor> {
    const all = {
      device: 'auto',
      maxBatch: 4096,
      maxQueued: 65_536,
      room: 10_000,
      mapped: false,
      maxPending: 100_000,
      ...options,
    } as const;
    for (const name of ['maxBatch', 'maxQueued', 'room', 'maxPending'] as const)
      if (!Number.isSafeInteger(all[name]) || all[name] < (name === 'room' ? 0 : 1))
        throw new ArgumentError(`Predictor: expected ${name} to be a positive integer but received ${all[name]}`, {
          op: 'Predictor.open',
          argument: name,
        });
    return new Predictor(await openState(folder, all), all);
  }

  /** Step of the weights. */
  get step(): number {
    return this.#state.served.signature.step;
  }

  /**
   * Scores the candidates of a request. Unknown ids are no error: they are scored as unknown, counted, and items without a vector wait in
   * `pending`. Rejects with `ArgumentError` or `IdError` for values of another kind, `QueueFullError` where too many candidates wait.
   */
  async predict(request: PredictRequest): Promise<Prediction> {
    if (this.#closed) throw new DisposedError('Predictor: it was closed before this call', { op: 'Predictor.predict' });
    checkRequest(request);
    const count = request.candidates.length;
    if (this.#queued + count > this.#options.maxQueued) {
      this.#counts.refusedRequests++;
      throw new QueueFullError(
        `Predictor: expected at most ${this.#options.maxQueued} candidates waiting but ${this.#queued} wait and ${count} come`,
        { queued: this.#queued },
      );
    }
    return new Promise((resolve, reject) => {
      const waiting = this.accept(request, resolve, reject);
      this.#counts.requests++;
      this.#counts.candidates += count;
      this.#queued += count;
      waiting.state.requests++;
      if (count === 0) return this.finish(waiting);
      this.#waiting.push(waiting);
      this.pump();
    });
  }

  /** Ids of items that were asked for and have no vector, in the order of their first request. */
  pending(): string[] {
    return [...this.#pending];
  }

  /**
   * Takes in items of an `ItemEncoder` of the same export, with the given vectors that they bring; from then on requests see them. Throws
   * `ExportMismatchError` for those of another one, `ArgumentError` for given vectors of another shape and fields of another kind,
   * `MemoryBankFullError` where there is no room; then none of the items is taken in.
   */
  add(encoded: EncodedItems): Promise<void> {
    return this.change(async () => {
      const { vectors, items, hopeless } = this.#state;
      const { ids, added, refused } = await addItems(this.#state, encoded);
      this.#counts.added += added;
      this.#counts.refusedVectors += refused;
      for (const id of ids) {
        if (vectors?.has(items.numberOf(id)) === false) hopeless.add(id);
        this.#pending.delete(id);
      }
    });
  }

  /** The background pass: encodes up to `limit` waiting items and adds them; returns how many. `content` gives what it knows of the ids. */
  async encodePending(
    encoder: ItemEncoder,
    content: (ids: readonly string[]) => readonly NewItem[] | Promise<readonly NewItem[]>,
    { limit = 256 }: { limit?: number } = {},
  ): Promise<number> {
    const ids = this.pending().slice(0, limit);
    if (ids.length === 0) return 0;
    try {
      const items = await content(ids);
      await this.add(await encoder.encode(items));
      return items.length;
    } finally {
      // What nobody knows anything about, or cannot be encoded, goes to the end, so that it does not keep others from their turn.
      for (const id of ids) if (this.#pending.delete(id)) this.#pending.add(id);
    }
  }

  /**
   * Goes over to another export, opened beside the one in use; requests under way end on the old one. What `add` brought is gone with it.
   * Where it is refused, the old one stays.
   */
  refresh(folder: string): Promise<void> {
    return this.change(async () => {
      const old = this.#state;
      const next = await openState(folder, this.#options, old.served);
      if (this.#closed) return release(next);
      this.#state = next;
      this.#counts.refreshes++;
      this.#unknownBefore += old.served.resolver.unknown;
      for (const id of this.#pending)
        if (next.vectors?.has(next.items.numberOf(id)) !== false) this.#pending.delete(id);
      old.retired = true;
      if (old.requests === 0) release(old);
    });
  }

  stats(): PredictorStats {
    const { served, items, vectors, since } = this.#state;
    return {
      ...this.#counts,
      step: served.signature.step,
      id: served.id,
      secondsServed: (performance.now() - since) / 1000,
      vectors: vectors?.count ?? 0,
      items: items.size,
      ages: vectors?.ages ?? null,
      unknownValues: this.#unknownBefore + served.resolver.unknown,
      pending: this.#pending.size,
    };
  }

  /** Ends what waits with `DisposedError`, waits for what runs, and releases the memory. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#change.catch(() => undefined);
    const error = new DisposedError('Predictor: it was closed while this request waited', { op: 'Predictor.predict' });
    for (const waiting of this.#waiting.splice(0)) this.fail(waiting, error);
    await Promise.all(this.#running);
    this.#state.retired = true;
    if (this.#state.requests === 0) release(this.#state);
  }

  private change<T>(work: () => Promise<T>): Promise<T> {
    const start = (): Promise<T> => {
      if (!this.#closed) return work();
      throw new DisposedError('Predictor: it was closed before this change', { op: 'Predictor' });
    };
    const next = this.#change.then(start, start);
    this.#change = next.catch(() => undefined);
    return next;
  }

  // ---- from a request to rows

  private accept(request: PredictRequest, resolve: Waiting['resolve'], reject: Waiting['reject']): Waiting {
    const state = this.#state;
    const { items, served, vectors } = state;
    const { schema } = served.serving;
    const column = schema.itemId ?? 'item';
    const numbers = (ids: readonly IdValue[]): Int32Array =>
      Int32Array.from(ids, (id) => items.numberOf(idText(id, column)));
    const used = Math.max(served.serving.historyLen, ...featuresOf(schema, 'history').map(({ maxLen }) => maxLen));
    const all = request.history ?? [];
    const past = used === 0 ? [] : all.slice(-used);
    const gaps = request.historyGaps ?? null;
    if (gaps !== null && gaps.length !== all.length)
      throw new ArgumentError(
        `Predictor.predict: expected a gap for each of ${all.length} history items but received ${gaps.length}`,
        { op: 'Predictor.predict', argument: 'historyGaps' },
      );
    const { row, query } = this.request(state, request);
    const candidates = numbers(request.candidates);
    const history = numbers(past);
    if (vectors !== null) {
      const missing = (ids: readonly IdValue[], list: Int32Array): number => {
        let count = 0;
        list.forEach((item, i) => {
          if (vectors.has(item)) return;
          count++;
          this.wait(idText(ids[i]!, column), state);
        });
        return count;
      };
      this.#counts.missingCandidates += missing(request.candidates, candidates);
      this.#counts.missingHistory += missing(past, history);
    }
    return {
      state,
      row,
      history,
      gaps: gaps === null ? null : Float32Array.from(gaps.slice(all.length - past.length)),
      query,
      candidates,
      scores: new Float32Array(candidates.length),
      others: {},
      found: new Uint8Array(candidates.length),
      taken: 0,
      done: 0,
      resolve,
      reject,
    };
  }

  private wait(id: string, { hopeless }: State): void {
    if (hopeless.has(id) || this.#pending.has(id)) return;
    if (this.#pending.size < this.#options.maxPending) this.#pending.add(id);
    else this.#counts.pendingForgotten++;
  }

  /** Features of the request, its user and its query, and the tokens of the query. */
  private request(
    { served, users }: State,
    { user, context = {}, query = null }: PredictRequest,
  ): { row: FeatureRow; query: TokenBatch | null } {
    const { resolver, serving, text } = served;
    const { schema } = serving;
    resolver.checkNames('Predictor.predict', context, ['inter', 'user']);
    const fields = queryFields(served, query);
    const number = user === null ? -1 : users.numberOf(idText(user, schema.userId ?? 'user'));
    if (number < 0) this.#counts.unknownUsers++;
    const rows = [
      resolver.resolve(tableFeatures(schema, 'inter'), context),
      resolver.resolve(tableFeatures(schema, 'query'), fields),
    ];
    const row = {
      categorical: new Map(rows.flatMap(({ categorical }) => [...categorical])),
      numeric: new Map(rows.flatMap(({ numeric }) => [...numeric])),
      sequences: new Map(rows.flatMap(({ sequences }) => [...sequences])),
    };
    const own = tableFeatures(schema, 'user');
    const given = resolver.resolve(
      own.filter(({ name }) => Object.hasOwn(context, name)),
      context,
    );
    for (const { name, type } of own) {
      if (type === 'categorical')
        row.categorical.set(name, given.categorical.get(name) ?? users.categorical(name, number));
      else if (type === 'numeric') row.numeric.set(name, given.numeric.get(name) ?? users.numeric(name, number));
      else row.sequences.set(name, given.sequences.get(name) ?? users.sequence(name, number));
    }
    if (!serving.queries || text.query === null) return { row, query: null };
    const names = text.query.fields.map(({ name }) => name);
    const tokens = text.query.encode(
      Object.fromEntries(names.map((name) => [name, words(name, fieldOf(fields, name))])),
    );
    if (tokens.tokens.length > 0) this.#counts.queriesEncoded++;
    return { row, query: tokens };
  }

  // ---- from rows to batches

  private pump(): void {
    while (this.#running.size < IN_FLIGHT && this.#waiting.length > 0) {
      this.#counts.batches++;
      const batch = this.score(this.take()).finally(() => {
        this.#running.delete(batch);
        this.pump();
      });
      this.#running.add(batch);
    }
  }

  /** Parts of waiting requests of one export, all with gaps or all without, at most `maxBatch` candidates. */
  private take(): Part[] {
    const parts: Part[] = [];
    let room = this.#options.maxBatch;
    while (room > 0 && this.#waiting.length > 0) {
      const request = this.#waiting[0]!;
      const first = parts[0]?.request ?? request;
      if (request.state !== first.state || (request.gaps === null) !== (first.gaps === null)) break;
      const from = request.taken;
      const to = Math.min(request.candidates.length, from + room);
      parts.push({ request, from, to });
      request.taken = to;
      room -= to - from;
      if (to === request.candidates.length) this.#waiting.shift();
    }
    return parts;
  }

  private async score(parts: readonly Part[]): Promise<void> {
    const { state } = parts[0]!.request;
    const { model, precision, signature } = state.served;
    try {
      const batch = batchOf(state, parts);
      const tasks = tidy(() =>
        inPrecision(precision, () => [
          ...(model.predictTasks?.(batch, signature.step) ?? [['', model.predict(batch, signature.step)] as const]),
        ]),
      );
      const values = await Promise.all(tasks.map(([, logits]) => logits.values())).finally(() => {
        for (const [, logits] of tasks) logits.dispose();
      });
      const [scores, ...others] = values as Float32Array[];
      let at = 0;
      for (const { request, from, to } of parts) {
        request.scores.set(scores!.subarray(at, at + to - from), from);
        others.forEach((of, task) => {
          request.others[tasks[task + 1]![0]] ??= new Float32Array(request.candidates.length);
          request.others[tasks[task + 1]![0]]!.set(of.subarray(at, at + to - from), from);
        });
        const rows = batch.items.rows.subarray(at, at + to - from);
        if (state.vectors !== null)
          request.found.set(
            rows.map((row) => Number(row !== state.vectors!.missing)),
            from,
          );
        at += to - from;
        request.done += to - from;
        if (request.done === request.candidates.length) this.finish(request);
      }
    } catch (error) {
      for (const { request } of parts) this.fail(request, error);
    }
  }

  private finish(request: Waiting): void {
    const { state, scores, others, found } = request;
    request.resolve({ scores, others, found, step: state.served.signature.step });
    this.leave(request);
  }

  private fail(request: Waiting, error: unknown): void {
    const at = this.#waiting.indexOf(request);
    if (at >= 0) this.#waiting.splice(at, 1);
    if (request.done < 0) return; // another part has failed
    request.done = Number.NEGATIVE_INFINITY;
    request.reject(error);
    this.leave(request);
  }

  private leave({ state, candidates }: Waiting): void {
    this.#queued -= candidates.length;
    state.requests--;
    if (state.retired && state.requests === 0) release(state);
  }
}

/** Fields of the query by name. A text alone is the first text field. */
function queryFields({ resolver, text }: ServedModel, query: PredictRequest['query']): Fields {
  const names = text.query?.fields.map(({ name }) => name) ?? [];
  if (query === null || query === undefined) return {};
  if (typeof query === 'string') {
    if (names[0] === undefined)
      throw new ArgumentError('Predictor.predict: expected no query text: the model reads none', { argument: 'query' });
    return { [names[0]]: query };
  }
  resolver.checkNames('Predictor.predict', query, ['query'], names);
  return query;
}

/** Requests often come as JSON from elsewhere. Throws ArgumentError. */
function checkRequest(request: PredictRequest): void {
  const check = (name: string, expected: string, value: unknown, fits: boolean): void => {
    if (!fits)
      throw new ArgumentError(
        `Predictor.predict: expected ${name} to be ${expected} but received ${value === null ? 'null' : typeof value}`,
        { op: 'Predictor.predict', argument: name },
      );
  };
  const isMap = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value);
  check('the request', 'an object', request, isMap(request));
  const { context, query, history, historyGaps, candidates } = request;
  check('candidates', 'a list of ids', candidates, Array.isArray(candidates));
  check('history', 'a list of ids', history, history === undefined || Array.isArray(history));
  check('context', 'fields by name', context, context === undefined || isMap(context));
  check('query', 'a text or fields by name', query, query == null || typeof query === 'string' || isMap(query));
  const gaps = historyGaps === undefined || (Array.isArray(historyGaps) && historyGaps.every(Number.isFinite));
  check('historyGaps', 'a list of finite numbers', historyGaps, gaps);
}
