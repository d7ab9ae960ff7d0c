/** A tiny run, its export, and requests that ask for what its test part shows. */
import { join } from 'node:path';
import type { Dataset } from '../../src/data/dataset.js';
import type { Batch } from '../../src/data/loader/batch.js';
import { generateShop, type Shop } from '../../src/data/shop/shop.js';
import type { PredictRequest } from '../../src/serve/predictor.js';
import type { ConfigInput } from '../../src/train/config.js';
import { openRun } from '../../src/train/open_run.js';
import { runConfig, runData, trainRun } from '../../src/train/run.js';
import { temporaryFolder, tinyConfig, tinyShop } from '../train/tiny_shop.js';

export const shop: Shop = generateShop(tinyShop);

/** Folder of a trained run. Dispose it. */
export async function trainedRun(
  config: Pick<ConfigInput, 'data' | 'model' | 'train'> = {},
): Promise<Disposable & { path: string; folder: string }> {
  const folder = temporaryFolder();
  const path = join(folder.path, 'run');
  const result = await trainRun(tinyConfig({ ...config, train: { epochs: 1, ...config.train } }), { runDir: path });
  result.model.dispose();
  return { path, folder: folder.path, [Symbol.dispose]: () => folder[Symbol.dispose]() };
}

/** Logits of the test part by the best checkpoint of a run, by event. */
export async function evaluatedLogits(run: string): Promise<Map<number, number>> {
  await using opened = await openRun(run, { device: 'cpu' });
  const { logits, events } = await opened.trainer.predict('test');
  return new Map(Array.from(events, (event, i) => [event, logits[i]!]));
}

/** A request, and the events that its candidates are. */
export interface TestRequest {
  readonly request: PredictRequest;
  readonly events: number[];
}

/** A request per session of the test part, and the events that its candidates are. */
export async function testRequests(run: string): Promise<TestRequest[]> {
  const { config } = runConfig(run);
  await using data = await runData(config);
  const bySession = new Map<number, TestRequest>();
  for await (const batch of data.openTest().loader({ batchSize: 64 }))
    for (let b = 0; b < batch.size; b++) addRow(bySession, data, batch, b);
  return [...bySession.values()];
}

function addRow(
  found: Map<number, TestRequest>,
  data: Dataset,
  { events, session, user, items, history, sequences }: Batch,
  b: number,
): void {
  const at = session[b]!;
  const past = history!.values.slice(history!.offsets[b], history!.offsets[b + 1]);
  const of = shop.events.session[events[b]!]!;
  const entry: TestRequest = found.get(at) ?? {
    request: {
      user: data.userIds[user[b]!]!,
      query: { query_id: String(shop.sessions.queryId[of]), query: shop.sessions.query[of]! },
      history: Array.from(past, (item) => data.items.ids[item]!),
      historyGaps: Array.from(
        sequences['history']!.gaps!.slice(sequences['history']!.offsets[b], sequences['history']!.offsets[b + 1]),
      ),
      candidates: [],
    },
    events: [],
  };
  entry.events.push(events[b]!);
  found.set(at, {
    ...entry,
    request: {
      ...entry.request,
      candidates: [...entry.request.candidates, data.items.ids[items.rows[items.index[b]!]!]!],
    },
  });
}
