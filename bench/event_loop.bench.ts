/**
 * What training at full load costs the event loop: the delay of a timer while steps of large linear layers run, two in flight,
 * against an idle process. Goal: at most 10 ms added at the 99th percentile. One JSON line and one for people.
 */
import { cpus } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { backward, parameter, zeroGrad } from '../ts/src/autograd.js';
import { addon } from '../ts/src/native.js';
import { linear } from '../ts/src/ops/linear.js';
import { sum } from '../ts/src/ops/reduce.js';
import { normals } from '../ts/src/random.js';
import { type Tensor, tensor } from '../ts/src/tensor.js';
import { keep, tidy } from '../ts/src/tidy.js';

const seconds = 10;
const [batch, width, depth] = [1024, 512, 8];

const random = (rows: number, stream: number) =>
  tensor(
    Float32Array.from(normals(rows * width, 1, stream), (x) => x * width ** -0.5),
    [rows, width],
  );
const x = keep(random(batch, 0));
const weights = Array.from({ length: depth }, (_, i) => parameter(random(width, i + 1)));

/** Enqueues one step; its loss is what a trainer would wait for. */
function step(): Tensor {
  return tidy(() => {
    let y = x;
    for (const weight of weights) y = linear(y, weight, null, { activation: 'gelu' });
    const loss = sum(y);
    backward(loss);
    zeroGrad(weights);
    return loss;
  });
}

interface Delay {
  readonly p99: number;
  readonly longest: number;
}

/** Milliseconds by which timers come late while `work` runs. */
async function delayDuring(work: () => Promise<void>): Promise<Delay> {
  const monitor = monitorEventLoopDelay({ resolution: 1 });
  monitor.enable();
  await work();
  monitor.disable();
  return { p99: monitor.percentile(99) / 1e6, longest: monitor.max / 1e6 };
}

let steps = 0;
async function train(): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const inFlight: Promise<unknown>[] = [];
  while (performance.now() < end) {
    const loss = step();
    inFlight.push(loss.item());
    loss.dispose(); // the read holds what it needs
    steps++;
    if (inFlight.length === 2) await inFlight.shift();
  }
  await Promise.all(inFlight);
}

await step().item();
const idle = await delayDuring(() => sleep(seconds * 1000));
const busy = await delayDuring(train);

const round = (ms: number) => Number(ms.toPrecision(3));
const { isa, threads } = addon.info();
console.log(
  JSON.stringify({
    op: 'event_loop',
    case: `${depth} linear layers ${batch}x${width}, forward and backward, two steps in flight`,
    device: `${cpus()[0]?.model.trim() ?? 'cpu'}, ${isa}, ${threads} threads`,
    steps,
    idle_p99_ms: round(idle.p99),
    busy_p99_ms: round(busy.p99),
    added_p99_ms: round(busy.p99 - idle.p99),
    idle_longest_ms: round(idle.longest),
    busy_longest_ms: round(busy.longest),
  }),
);
console.log(
  `  event loop: p99 ${round(busy.p99)} ms while training, ${round(idle.p99)} idle (${round(busy.p99 - idle.p99)} added, goal 10); longest gap ${round(busy.longest)} ms; ${steps} steps`,
);
