/** `galago bench`: how long every kernel family takes on this machine, beside the least time its bytes and its arithmetic need. */
import { cpus } from 'node:os';
import { backward, zeroGrad } from '../autograd.js';
import { ConfigError } from '../errors.js';
import { addon, probeModule } from '../native.js';
import { type DeviceControl, type DeviceName, device } from '../tensor.js';
import { scopes, tidy } from '../tidy.js';
import { nearest } from '../train/config_keys.js';
import { type PreparedCall, prepareCall } from './kernel_calls.js';
import { type BenchSize, benchedOps, benchSizes, type Cost, type KernelCase, kernelCases } from './kernel_cases.js';
import { textTable } from './text_table.js';
import { integer, single, type Verb, type VerbArguments } from './verb.js';

/** Highest rates per second that a device reaches. */
interface Ceilings {
  readonly bytes: number;
  readonly bfloat16: number;
  readonly float32: number;
  readonly exps: number;
}

/** By part of the device's name. Working values until bench/peers/ceilings.py has measured them there: a copy, a product, exp2. */
const ceilings: Readonly<Record<string, Ceilings>> = {
  H200: { bytes: 4.3e12, bfloat16: 790e12, float32: 67e12, exps: 3.6e12 },
  H100: { bytes: 3.0e12, bfloat16: 790e12, float32: 67e12, exps: 3.6e12 },
};

/** The least microseconds of one call on the named device; null where its ceilings are not known. */
export function floorOf({ bytes, flops, exps = 0 }: Cost, dtype: string, deviceName: string): number | null {
  const known = Object.entries(ceilings).find(([name]) => deviceName.includes(name))?.[1];
  if (known === undefined) return null;
  const rate = dtype === 'bfloat16' ? known.bfloat16 : known.float32;
  return 1e6 * Math.max(bytes / known.bytes, flops / rate, exps / known.exps);
}

/** One line of results: kernels.md calls it the JSON line of a bench; peers print the same. Times in microseconds per call. */
export interface BenchLine {
  readonly op: string;
  readonly pass: string;
  readonly case: string;
  readonly impl: string;
  readonly variant: string;
  readonly dtype: string;
  readonly device: string;
  readonly us_p10: number;
  readonly us_median: number;
  readonly bytes: number;
  readonly flops: number;
  readonly floor_us: number | null;
  /** Floor over median. */
  readonly share: number | null;
  /** Most memory held on the device at once, inputs included. */
  readonly peak_mb: number;
}

const round = (x: number) => Number(x.toPrecision(4));

function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))]!;
}

/** What `run` creates, alive until `release`: a graph that is used after a wait. */
function held<T>(run: () => T): { result: T; release: () => void } {
  const owned: (typeof scopes)[number] = [];
  scopes.push(owned);
  try {
    const result = run();
    return { result, release: () => owned.forEach((x) => x.kept || x.dispose()) };
  } finally {
    scopes.pop();
  }
}

/** Seconds of `calls` calls of a pass between two waits. Graphs for `backward` are recorded before the clock starts. */
async function timed(
  sets: readonly PreparedCall[],
  pass: string,
  calls: number,
  control: DeviceControl,
): Promise<number> {
  const of = (i: number) => sets[i % sets.length]!;
  const recorded = Array.from({ length: pass === 'backward' || pass === 'step' ? calls : 0 }, (_, i) => {
    const one = of(i);
    return 'forward' in one ? held(one.forward) : null;
  });
  await control.synchronize();
  const start = process.hrtime.bigint();
  for (let i = 0; i < calls; i++)
    tidy(() => {
      const one = of(i);
      const graph = recorded[i];
      if ('call' in one) one.call();
      else if (!graph) one.forward();
      else {
        backward(graph.result, one.dout);
        if (pass === 'step') one.optimizer?.step();
        zeroGrad(one.leaves);
      }
    });
  await control.synchronize();
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  for (const graph of recorded) graph?.release();
  return seconds;
}

interface Effort {
  /** Batches that are timed, and seconds after which a case has enough of them. */
  readonly rounds: number;
  readonly seconds: number;
  /** Seconds that a batch should take: far more than a wait does. */
  readonly batch: number;
}

/** Beyond the last cache of any device, so that no call finds its inputs there. */
const cacheBytes = 240e6;
const mostSets = 16;

async function measure(one: KernelCase, name: DeviceName, deviceName: string, effort: Effort): Promise<BenchLine[]> {
  const control = device(name);
  const size = Math.max(...Object.values(one.passes).map(({ bytes }) => bytes));
  const count = effort.rounds === 1 ? 1 : Math.min(mostSets, Math.max(1, Math.ceil(cacheBytes / size)));
  addon.resetPeak(name);
  const { result: sets, release } = held(() => Array.from({ length: count }, () => prepareCall(one, name)));
  const lines: BenchLine[] = [];
  try {
    for (const [pass, cost] of Object.entries(one.passes)) {
      let single = Number.POSITIVE_INFINITY;
      for (let warm = 0; warm < (effort.rounds === 1 ? 1 : 3); warm++)
        single = Math.min(single, await timed(sets, pass, 1, control));
      addon.resetPeak(name);
      await timed(sets, pass, 1, control);
      const peak = control.memory().peak;
      // a batch keeps the graphs of all its calls: not more than some gigabytes of them
      const room = Math.max(1, Math.floor(4e9 / cost.bytes));
      const calls = Math.max(1, Math.min(500, room, Math.round(effort.batch / single)));
      const samples: number[] = [];
      const begun = performance.now();
      while (samples.length < effort.rounds && (samples.length < 5 || performance.now() - begun < 1e3 * effort.seconds))
        samples.push((1e6 * (await timed(sets, pass, calls, control))) / calls);
      const median = quantile(samples, 0.5);
      const floor = floorOf(cost, one.dtype, deviceName);
      lines.push({
        op: one.op,
        pass,
        case: one.case,
        impl: 'galago',
        variant: 'portable',
        dtype: one.dtype,
        device: deviceName,
        us_p10: round(quantile(samples, 0.1)),
        us_median: round(median),
        bytes: cost.bytes,
        flops: cost.flops,
        floor_us: floor === null ? null : round(floor),
        share: floor === null ? null : round(floor / median),
        peak_mb: round(peak / 1e6),
      });
    }
  } finally {
    for (const { optimizer } of sets) optimizer?.dispose();
    for (const set of sets) if ('leaves' in set) zeroGrad(set.leaves);
    release();
    await control.synchronize();
  }
  return lines;
}

/** What the results call the device: the GPU's name, or the processor with its instruction set and threads. */
function nameOf(name: DeviceName): string {
  if (name === 'cuda-emu') return name;
  if (name === 'cpu') {
    const { isa, threads } = addon.info();
    return `${cpus()[0]?.model.trim() ?? 'cpu'}, ${isa}, ${threads} threads`;
  }
  const index = Number(name.split(':')[1] ?? 0);
  return probeModule('cuda').devices[index]?.name ?? name;
}

interface BenchRequest {
  readonly ops: readonly string[];
  readonly device: DeviceName;
  readonly size: BenchSize;
  readonly dtypes: readonly ('float32' | 'bfloat16')[];
  readonly only: string | null;
  readonly list: boolean;
  readonly effort: Effort;
}

/** Reads the options of `bench`. Errors: `ConfigError`, for an op without cases and for values that are none. */
export function benchRequest(args: VerbArguments): BenchRequest {
  for (const op of args.positionals)
    if (!benchedOps.includes(op)) {
      const near = nearest(op, benchedOps);
      throw new ConfigError(`bench: no cases of ${op}; nearest is ${near}`, { key: op, nearest: near });
    }
  const choice = <T extends string>(name: string, known: readonly T[], standard: T): T => {
    const value = single(args, name) ?? standard;
    if (!known.includes(value as T))
      throw new ConfigError(`bench: expected --${name} to be ${known.join(', ')} but received ${value}`, { key: name });
    return value as T;
  };
  const name = single(args, 'device') ?? 'auto';
  if (!/^(auto|cpu|cuda|cuda:\d+|cuda-emu)$/.test(name))
    throw new ConfigError(`bench: expected --device to be auto, cpu, cuda or cuda:N but received ${name}`, {
      key: 'device',
    });
  const list = args.flags.has('list');
  const resolved = name === 'auto' ? (list ? 'cpu' : device('auto').name) : (name as DeviceName);
  const gpu = resolved.startsWith('cuda') && resolved !== 'cuda-emu';
  const size = choice('size', benchSizes, gpu ? 'full' : resolved === 'cpu' ? 'small' : 'tiny');
  const dtype = choice('dtype', ['float32', 'bfloat16', 'both'], resolved === 'cpu' ? 'float32' : 'bfloat16');
  if (resolved === 'cpu' && dtype !== 'float32')
    throw new ConfigError('bench: expected --dtype to be float32 on cpu, which has no bfloat16', { key: 'dtype' });
  const rounds = integer(bench, args, 'rounds', 1) ?? (gpu ? 50 : size === 'tiny' ? 1 : 9);
  return {
    ops: args.positionals,
    device: resolved,
    size,
    dtypes: dtype === 'both' ? ['bfloat16', 'float32'] : [dtype],
    only: single(args, 'case') ?? null,
    list,
    effort: { rounds, seconds: gpu ? 1 : 4, batch: gpu ? 0.005 : 0.02 },
  };
}

/** The cases of a request, each once: an op that computes in float32 only has no second dtype. */
function casesOf({ ops, size, dtypes, only }: BenchRequest): KernelCase[] {
  const all = new Map<string, KernelCase>();
  for (const dtype of dtypes)
    for (const one of kernelCases(ops, size, dtype)) all.set(`${one.op} ${one.case} ${one.dtype}`, one);
  return [...all.values()].filter((one) => only === null || one.case.includes(only));
}

const header = ['op', 'case', 'pass', 'dtype', 'us', 'p10', 'GB/s', 'TFLOP/s', 'floor', 'share', 'peak MB'];

function cells(line: BenchLine): string[] {
  const { bytes, flops, floor_us: floor, share } = line;
  return [
    line.op,
    line.case,
    line.pass,
    line.dtype,
    String(line.us_median),
    String(line.us_p10),
    String(round(bytes / line.us_median / 1e3)),
    flops === 0 ? '-' : String(round(flops / line.us_median / 1e6)),
    floor === null ? '-' : String(floor),
    share === null ? '-' : `${(100 * share).toFixed(0)} %`,
    String(line.peak_mb),
  ];
}

/** `galago bench`: see `summary`. */
export const bench: Verb = {
  name: 'bench',
  summary:
    'Measures the kernels of each op at representative shapes, forward and backward, and compares with the least possible time.',
  positionals: '[op ...]',
  options: {
    device: { type: 'string', value: 'name', help: 'auto, cpu or cuda:N' },
    size: { type: 'string', value: 'size', help: 'full, small or tiny shapes; default: full on cuda, small on cpu' },
    dtype: {
      type: 'string',
      value: 'type',
      help: 'float32, bfloat16 or both; default: bfloat16 on cuda, float32 on cpu',
    },
    case: { type: 'string', value: 'text', help: 'only cases whose name contains this' },
    rounds: { type: 'string', value: 'n', help: 'timed batches per case; default 50 on cuda, 9 on cpu' },
    list: { type: 'boolean', help: 'prints the cases with their sizes as JSON lines and measures nothing' },
  },
  overrides: false,
  notes: [`Ops: ${benchedOps.join(', ')}.`, 'With --json, one line per case and pass comes before the result.'],
  async run(args, { stdout, stderr }) {
    const request = benchRequest(args);
    const cases = casesOf(request);
    if (cases.length === 0) throw new ConfigError(`bench: no case contains ${request.only ?? ''}`, { key: 'case' });
    const json = args.flags.has('json');
    if (!request.list) device(request.device); // throws where it cannot be used
    const deviceName = request.list && request.device !== 'cpu' ? listedName(request.device) : nameOf(request.device);
    if (request.list) {
      for (const { passes, ...one } of cases)
        for (const [pass, cost] of Object.entries(passes)) {
          const floor = floorOf(cost, one.dtype, deviceName);
          stdout.write(
            `${JSON.stringify({ ...one, pass, ...cost, floor_us: floor === null ? null : round(floor) })}\n`,
          );
        }
      return { cases: cases.length };
    }
    const lines: BenchLine[] = [];
    for (const one of cases) {
      if (!json) stderr.write(`${one.op} ${one.case} ${one.dtype}\n`);
      const measured = await measure(one, request.device, deviceName, request.effort);
      if (json) for (const line of measured) stdout.write(`${JSON.stringify(line)}\n`);
      lines.push(...measured);
    }
    if (!json) stdout.write(`${deviceName}\n${textTable(header, lines.map(cells))}`);
    return { device: deviceName, lines: lines.length };
  },
};

/** The name of a device whose cases are only listed: it need not be there. */
function listedName(name: DeviceName): string {
  try {
    return nameOf(name);
  } catch {
    return name;
  }
}
