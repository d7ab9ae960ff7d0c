/**
 * Memory over 2,000 training steps of EM3 on a small shop, every batch fresh from the loader. Goals: bytes in use on the device flat to
 * the byte, memory of the process within 2 % of where it stood after 500 steps.
 */
import { memoryUsage } from 'node:process';
import { device } from '../ts/src/tensor.js';
import { buildModel, trainSettings } from '../ts/src/train/build_model.js';
import { runData } from '../ts/src/train/run.js';
import { say } from './measure.js';
import { ShopStep, shopConfig } from './shop_step.js';

const steps = 2000;
const warmUp = 500;
const every = 100;
const config = shopConfig({
  data: { shop: { items: 200, users: 100, sessions: 4000 } },
  train: { train_batch_size: 16 },
});
const cpu = device('cpu');
const collectGarbage = (globalThis as { gc?: () => void }).gc;

await using data = await runData(config);
using model = buildModel(config, data.schema);
const step = new ShopStep(config, model, []);
const { batchSize, unit, seed } = trainSettings(config);
const samples: { step: number; live: number; rss: number }[] = [];
let done = 0;
for (let epoch = 0; done < steps; epoch++)
  for await (const batch of data.loader({ part: 'train', epoch, batchSize, unit, seed })) {
    const loss = step.run(batch);
    await loss.item();
    loss.dispose();
    if (++done % every === 0) {
      await cpu.synchronize();
      collectGarbage?.();
      samples.push({ step: done, live: cpu.memory().live, rss: memoryUsage.rss() });
    }
    if (done === steps) break;
  }

const warm = samples.filter((x) => x.step >= warmUp);
const live = warm.map((x) => x.live);
const rss = warm.map((x) => x.rss);
const growth = Math.max(...rss) / rss[0]! - 1;
console.log(
  JSON.stringify({
    op: 'memory',
    case: 'EM3 on a shop of 200 items, 16 sessions a step',
    steps,
    live_bytes: live[0],
    live_bytes_range: Math.max(...live) - Math.min(...live),
    rss_bytes: rss[0],
    rss_growth: Number(growth.toPrecision(3)),
    rss_by_step: samples.map((x) => Math.round(x.rss / 1e5) / 10),
  }),
);
say(
  `  memory: ${Math.max(...live) - Math.min(...live)} bytes of change on the device from step ${warmUp} to ${steps}, process ${(growth * 100).toFixed(2)} % above step ${warmUp} at most (goal 2)`,
);
