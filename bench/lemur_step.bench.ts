/**
 * What sampling saves: one whole training step of LEMUR (examples/lemur-search.yaml) with fewer and fewer documents encoded, against
 * encoding all, on the shop's short documents and on documents as long as those of the paper. All variants take their steps in turn.
 * Goal: with p = q = 20 at most 60 % of the time. FLOPs are those of `galago inspect --flops`.
 */
import { cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addon } from '../ts/src/native.js';
import { device } from '../ts/src/tensor.js';
import { buildModel, trainSettings } from '../ts/src/train/build_model.js';
import { resolveConfig } from '../ts/src/train/config.js';
import { runData } from '../ts/src/train/run.js';
import { stepFlops } from '../ts/src/train/step_flops.js';
import { say, threads } from './measure.js';
import { ShopStep } from './shop_step.js';

const example = join(fileURLToPath(new URL('..', import.meta.url)), 'examples', 'lemur-search.yaml');
const variants = [
  ['100/100', 'model.bank.p=100', 'model.bank.q=100'],
  ['100/20', 'model.bank.p=100', 'model.bank.q=20'],
  ['50/50', 'model.bank.p=50', 'model.bank.q=50'],
  ['20/20', 'model.bank.p=20', 'model.bank.q=20'],
  ['10/10', 'model.bank.p=10', 'model.bank.q=10'],
  ['ids only', 'model.training=id_only'],
] as const;
const rounds = 12;
const stepsPerRound = 2;

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const round = (x: number): number => Number(x.toPrecision(4));

addon.setThreads(threads);
const cpu = device('cpu');
for (const documents of ['short', 'long'] as const) {
  const steps: { name: string; step: ShopStep; flops: number; ms: number[]; cpuMs: number[] }[] = [];
  for (const [name, ...overrides] of variants) {
    const all = [...overrides, `data.shop.documents=${documents}`, 'device=cpu'];
    const { config } = resolveConfig({ files: [example], overrides: all });
    await using data = await runData(config);
    using model = buildModel(config, data.schema);
    const { forward, backward } = await stepFlops(model, data, trainSettings(config));
    const step = await ShopStep.of(config, { count: 16, warmUp: 30 });
    steps.push({ name, step, flops: forward + backward, ms: [], cpuMs: [] });
  }
  for (let at = 0; at < rounds; at++)
    for (const { step, ms, cpuMs } of steps) {
      await cpu.synchronize();
      const [began, used] = [performance.now(), process.cpuUsage()];
      for (let i = 0; i < stepsPerRound; i++) step.run().dispose();
      await cpu.synchronize();
      const { user, system } = process.cpuUsage(used);
      ms.push((performance.now() - began) / stepsPerRound);
      cpuMs.push((user + system) / 1000 / stepsPerRound);
    }
  const full = steps[0]!;
  for (const { name, step, flops, ms, cpuMs } of steps) {
    const line = {
      op: 'lemur_step',
      case: `${documents} documents, p/q ${name}`,
      device: `${cpus()[0]?.model.trim() ?? 'cpu'}, ${addon.info().isa}, ${threads} threads`,
      load: round(loadavg()[0]!),
      rows: step.batches[0]!.size,
      ms_median: round(median(ms)),
      cpu_ms_median: round(median(cpuMs)),
      gflops: round(flops / 1e9),
      time_share: round(median(ms) / median(full.ms)),
      cpu_share: round(median(cpuMs) / median(full.cpuMs)),
      flops_share: round(flops / full.flops),
    };
    console.log(JSON.stringify(line));
    const percent = (share: number): string => `${Math.round(100 * share)} %`;
    say(
      `  ${line.case}: ${percent(line.time_share)} of the time, ${percent(line.flops_share)} of the FLOPs of encoding all`,
    );
  }
  for (const { step } of steps) step.model.dispose();
}
