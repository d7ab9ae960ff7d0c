/**
 * What training at full load costs the event loop: how late a timer comes while the trainer runs EM3 on the generated shop, against an
 * idle process, and the longest gap in each phase. Goal: at most 5 ms added at the 99th percentile.
 */
import { cpus, loadavg } from 'node:os';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { addon } from '../ts/src/native.js';
import { buildModel, trainSettings } from '../ts/src/train/build_model.js';
import { runData } from '../ts/src/train/run.js';
import { Trainer } from '../ts/src/train/trainer.js';
import { say, threads } from './measure.js';
import { shopConfig } from './shop_step.js';

const seconds = 20;
addon.setThreads(threads);
const config = shopConfig({ data: { shop: { items: 1000, users: 500, sessions: 6000 } } });

const phases = new Map<string, RecordableHistogram>();
let recent: number[] = [];
let due = performance.now() + 1;
const timer = setInterval(() => {
  const now = performance.now();
  recent.push(Math.max(1, Math.round((now - due) * 1e6)));
  due = now + 1;
}, 1);
/** Books what was seen since the last call to `phase`. */
function book(phase: string): void {
  const histogram = phases.get(phase) ?? createHistogram();
  phases.set(phase, histogram);
  for (const nanoseconds of recent) histogram.record(nanoseconds);
  recent = [];
}

await sleep(seconds * 500);
book('idle');
await using data = await runData(config);
book('load');
using model = buildModel(config, data.schema);
await using trainer = new Trainer({ model, data, device: 'cpu', settings: trainSettings(config) });
book('build');
const end = performance.now() + seconds * 1000;
let steps = 0;
for await (const event of trainer.run({ epochs: 1000 })) {
  book(event.type);
  if (event.type === 'step') steps++;
  // another round of steps and validation while there is time
  if (event.type === 'eval' && performance.now() > end) break;
}
clearInterval(timer);

const round = (ns: number) => Number((ns / 1e6).toPrecision(3));
const entries = [...phases].map(([phase, h]) => [phase, { p99_ms: round(h.percentile(99)), longest_ms: round(h.max) }]);
const training = createHistogram();
for (const phase of ['step', 'eval']) training.add(phases.get(phase)!);
const idle = phases.get('idle')!;
const added = round(training.percentile(99) - idle.percentile(99));
console.log(
  JSON.stringify({
    op: 'event_loop',
    case: 'trainer on a shop of 1,000 items, 768 rows a step, with validation',
    device: `${cpus()[0]?.model.trim() ?? 'cpu'}, ${addon.info().isa}, ${threads} threads`,
    load: loadavg()[0],
    steps,
    idle_p99_ms: round(idle.percentile(99)),
    training_p99_ms: round(training.percentile(99)),
    added_p99_ms: added,
    longest_ms: round(training.max),
    phases: Object.fromEntries(entries) as unknown,
  }),
);
say(
  `  event loop: p99 ${round(training.percentile(99))} ms while training, ${round(idle.percentile(99))} idle: ${added} added (goal 5); longest gap ${round(training.max)} ms`,
);
