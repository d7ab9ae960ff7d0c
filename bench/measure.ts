/**
 * How benches measure: batches of calls between two waits, ours and each peer's in turn within every round, so that a busy machine
 * slows both. One JSON line per case and implementation; times are microseconds per call: least, p10 and median over the rounds.
 *
 * A peer is a Python program, bench/peers/<op>.py: it reads one JSON request per line ({case fields, calls}) and answers one line
 * {"us": time per call or null, "impl": name and version} after a first line of greeting. Peers whose packages are missing are named on standard error and left out.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpus, loadavg, setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addon, type KernelTime } from '../ts/src/native.js';

export interface BenchCase {
  readonly op: string;
  readonly pass: string;
  readonly case: string;
  readonly dtype: string;
  /** Least traffic and work of one call. */
  readonly bytes: number;
  readonly flops: number;
  /** Enqueues one call. */
  readonly run: () => void;
  /** Calls between two waits; default: as many as fill 10 ms. */
  readonly calls?: number;
  /** A result that both sides print, so that nobody thinks they do different work. */
  readonly check?: number;
  /** What the peer needs to make the same call. */
  readonly peer?: Readonly<Record<string, unknown>>;
}

const { values } = parseArgs({
  options: {
    threads: { type: 'string' },
    rounds: { type: 'string', default: '9' },
    json: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
export const threads = values.threads === undefined ? addon.info().threads : Number(values.threads);
const rounds = Number(values.rounds);
const batchMicroseconds = 10_000;

interface Peer {
  readonly process: ChildProcess;
  readonly answers: AsyncIterator<string>;
}

interface Answer {
  /** null: this peer has no such case. */
  readonly us: number | null;
  readonly impl: string;
  /** CPU time of the whole process per call, where the peer measures it. */
  readonly cpu_us?: number;
  readonly check?: number;
}

/** Starts bench/peers/<name>.py with every Python on the path that has its packages. GALAGO_BENCH_PYTHON adds interpreters. */
async function startPeers(name: string): Promise<Peer[]> {
  const program = fileURLToPath(new URL(`./peers/${name}.py`, import.meta.url));
  const interpreters = (process.env['GALAGO_BENCH_PYTHON'] ?? 'python3,/usr/bin/python3').split(',');
  const peers: Peer[] = [];
  for (const interpreter of new Set(interpreters)) {
    const count = String(threads);
    const child = spawn(interpreter, [program], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: {
        // OpenBLAS takes the AVX2 kernels on processors newer than itself; with these it is twice as fast where AVX-512 exists
        ...(addon.info().isa === 'avx512' ? { OPENBLAS_CORETYPE: 'SkylakeX' } : {}),
        ...process.env,
        OMP_NUM_THREADS: count,
        OPENBLAS_NUM_THREADS: count,
        MKL_NUM_THREADS: count,
      },
    });
    child.on('error', () => undefined); // no such interpreter: it says nothing and is left out below
    // our executor and its pool run at this priority, so that the event loop goes first; a busy machine must slow both sides
    if (child.pid !== undefined) setPriority(child.pid, 5);
    const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const hello = await answers.next();
    if (hello.done) process.stderr.write(`peer ${name}: ${interpreter} cannot run it, left out\n`);
    else peers.push({ process: child, answers });
  }
  return peers;
}

async function ask(peer: Peer, request: Readonly<Record<string, unknown>>): Promise<Answer> {
  peer.process.stdin?.write(`${JSON.stringify(request)}\n`);
  const line = await peer.answers.next();
  if (line.done) throw new Error('a peer ended before it answered');
  return JSON.parse(line.value) as Answer;
}

/** Microseconds per call: elapsed, and CPU time of the whole process. */
interface Sample {
  readonly us: number;
  readonly cpuUs: number | null;
}

async function sample(run: () => void, calls: number): Promise<Sample> {
  await addon.synchronize('cpu');
  const cpu = process.cpuUsage();
  const start = process.hrtime.bigint();
  for (let i = 0; i < calls; i++) run();
  await addon.synchronize('cpu');
  const us = Number(process.hrtime.bigint() - start) / 1e3 / calls;
  const { user, system } = process.cpuUsage(cpu);
  return { us, cpuUs: (user + system) / calls };
}

function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))]!;
}

const round = (x: number) => Number(x.toPrecision(4));

/** What people read; with --json only JSON lines are printed. */
export function say(text: string): void {
  if (!values.json) console.log(text);
}

/** Kernels of `steps` steps, the longest first. CPU time is that of the executor's thread: all of the work where it is the only one. */
export function printKernels(profile: Readonly<Record<string, KernelTime>>, steps: number, threadCount: number): void {
  const rows = Object.entries(profile).sort(([, a], [, b]) => b.seconds - a.seconds);
  for (const [kernel, { calls, seconds, cpuSeconds }] of rows)
    console.log(
      JSON.stringify({
        op: 'kernel',
        case: kernel,
        threads: threadCount,
        calls_per_step: round(calls / steps),
        us_per_step: round((seconds / steps) * 1e6),
        cpu_us_per_step: round((cpuSeconds / steps) * 1e6),
      }),
    );
}

interface Summary {
  readonly median: number;
  readonly p10: number;
  readonly least: number;
  readonly leastCpu: number | null;
}

function summarise(samples: readonly Sample[]): Summary {
  const us = samples.map((x) => x.us);
  const cpu = samples.flatMap((x) => (x.cpuUs === null ? [] : [x.cpuUs]));
  return {
    median: quantile(us, 0.5),
    p10: quantile(us, 0.1),
    least: Math.min(...us),
    leastCpu: cpu.length === 0 ? null : Math.min(...cpu),
  };
}

/** Measures every case and prints its lines; the last line of a case holds the ratios to each peer. */
export async function bench(cases: readonly BenchCase[], { peer: peerName }: { peer?: string } = {}): Promise<void> {
  const before = addon.info().threads;
  addon.setThreads(threads);
  const peers = peerName === undefined ? [] : await startPeers(peerName);
  const device = `${cpus()[0]?.model.trim() ?? 'cpu'}, ${addon.info().isa}, ${threads} threads`;
  for (const one of cases) {
    const { op, pass, case: name, dtype, bytes, flops, run, peer: request } = one;
    for (let warm = 0; warm < 3; warm++) await sample(run, 1);
    const calls = one.calls ?? Math.max(1, Math.min(2000, Math.round(batchMicroseconds / (await sample(run, 1)).us)));
    const samples = new Map<string, Sample[]>();
    const checks = new Map<string, number | undefined>([['galago', one.check]]);
    const note = (impl: string, x: Sample) => samples.set(impl, [...(samples.get(impl) ?? []), x]);
    for (let i = 0; i < rounds; i++) {
      note('galago', await sample(run, calls));
      if (request !== undefined)
        for (const peer of peers) {
          const answer = await ask(peer, { op, pass, case: name, dtype, threads, calls, ...request });
          if (answer.us === null) continue;
          note(answer.impl, { us: answer.us, cpuUs: answer.cpu_us ?? null });
          checks.set(answer.impl, answer.check);
        }
    }
    const ours = summarise(samples.get('galago')!);
    for (const [impl, list] of samples) {
      const { median, p10, least, leastCpu } = summarise(list);
      const check = checks.get(impl);
      const line = {
        op,
        pass,
        case: name,
        impl,
        dtype,
        device,
        load: round(loadavg()[0]!),
        us_min: round(least),
        us_p10: round(p10),
        us_median: round(median),
        ...(leastCpu === null ? {} : { cpu_us_min: round(leastCpu) }),
        ...(bytes === 0 ? {} : { bytes, gbytes_per_s: round(bytes / least / 1e3) }),
        ...(flops === 0 ? {} : { flops, gflops: round(flops / least / 1e3) }),
        ...(check === undefined ? {} : { check: round(check) }),
        // how many times as fast as this peer we are: by the middle rounds, by the best rounds, and by CPU time
        ...(impl === 'galago'
          ? {}
          : {
              ratio: round(median / ours.median),
              ratio_of_best: round(least / ours.least),
              ...(leastCpu === null || ours.leastCpu === null ? {} : { ratio_of_cpu: round(leastCpu / ours.leastCpu) }),
            }),
      };
      console.log(JSON.stringify(line));
      if (line.ratio !== undefined)
        say(`  ${op} ${pass} ${name}: ${line.ratio}x ${impl} (best rounds ${line.ratio_of_best ?? ''}x)`);
    }
  }
  for (const peer of peers) peer.process.stdin?.end();
  addon.setThreads(before);
}
