// Trains EM3 on the generated shop, the library's way: an async iterator of events, nothing printed by the library.
// Compile it with tsc (target ES2022); Node 24, which knows `using`, reads it as it is.
import { em3, loadDataset, Trainer } from 'galago';

await using data = await loadDataset({ shop: { items: 400, users: 200, sessions: 3000 } });
const width = 32;
const model = em3(data.schema, {
  ranker: 'din',
  training: 'end_to_end',
  content: {
    text: { width, layers: 1, ffn: 64 },
    queryLayers: 1,
    fusion: { queries: 2, layers: 1, heads: 4, width, ffn: 64, dropout: 0 },
    lora: { mode: 'none' },
  },
  sqdc: { weight: 0.1 },
  historyLen: 20,
});
await using trainer = new Trainer({
  model,
  data,
  seed: 7,
  settings: {
    unit: 'session',
    batchSize: 128,
    learningRates: { dense: 2e-3, sparse: 2e-3, encoder: 2e-3, lora: 2e-3 },
  },
});
for await (const event of trainer.run({ epochs: 2 })) {
  if (event.type === 'eval') console.log(`epoch ${event.epoch}`, event.metrics.all.AUC, event.metrics.warm?.AUC);
}
