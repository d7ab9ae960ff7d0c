/**
 * How benches measure: batches of calls between two waits, ours and each peer's in turn within every round, so that a busy machine
 * slows both. One JSON line per case and implementation; times are microseconds per call, p10 and median over the rounds.
 *
 * A peer is a Python program, bench/peers/<op>.py: it reads one JSON request per line ({case fields, calls}) and answers one line
 * {"us": time per call or null, "impl": name and version} after a first line of greeting. Peers whose packages are missing are named on standard error and left out.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpus, setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addon } from '../ts/src/native.js';

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
  /** What the peer needs to make the same call. */
  readonly peer?: Readonly<Record<string, unknown>>;
}

const { values } = parseArgs({
  options: { threads: { type: 'string' }, rounds: { type: 'string', default: '9' } },
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
      env: { ...process.env, OMP_NUM_THREADS: count, OPENBLAS_NUM_THREADS: count, MKL_NUM_THREADS: count },
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

async function sample(run: () => void, calls: number): Promise<number> {
  await addon.synchronize('cpu');
  const start = process.hrtime.bigint();
  for (let i = 0; i < calls; i++) run();
  await addon.synchronize('cpu');
  return Number(process.hrtime.bigint() - start) / 1e3 / calls;
}

function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.floor(q * (sorted.length - 1))]!;
}

const round = (x: number) => Number(x.toPrecision(4));

/** Measures every case and prints its lines; the last line of a case holds the ratio to its fastest peer. */
export async function bench(cases: readonly BenchCase[], { peer: peerName }: { peer?: string } = {}): Promise<void> {
  const before = addon.info().threads;
  addon.setThreads(threads);
  const peers = peerName === undefined ? [] : await startPeers(peerName);
  const device = `${cpus()[0]?.model.trim() ?? 'cpu'}, ${addon.info().isa}, ${threads} threads`;
  for (const { op, pass, case: name, dtype, bytes, flops, run, peer: request } of cases) {
    for (let warm = 0; warm < 3; warm++) await sample(run, 1);
    const calls = Math.max(1, Math.min(2000, Math.round(batchMicroseconds / (await sample(run, 1)))));
    const times = new Map<string, number[]>();
    const note = (impl: string, us: number) => times.set(impl, [...(times.get(impl) ?? []), us]);
    for (let i = 0; i < rounds; i++) {
      note('galago', await sample(run, calls));
      if (request !== undefined)
        for (const peer of peers) {
          const answer = await ask(peer, { op, pass, case: name, dtype, threads, calls, ...request });
          if (answer.us !== null) note(answer.impl, answer.us);
        }
    }
    const ours = quantile(times.get('galago')!, 0.5);
    let best = Number.POSITIVE_INFINITY;
    for (const [impl, samples] of times) {
      const median = quantile(samples, 0.5);
      if (impl !== 'galago') best = Math.min(best, median);
      const line = {
        op,
        pass,
        case: name,
        impl,
        dtype,
        device,
        us_p10: round(quantile(samples, 0.1)),
        us_median: round(median),
        bytes,
        flops,
        gflops: round(flops / median / 1e3),
        gbytes_per_s: round(bytes / median / 1e3),
      };
      console.log(JSON.stringify(line));
    }
    if (Number.isFinite(best)) console.log(`  ${op} ${pass} ${name}: ${round(best / ours)}x the fastest peer`);
  }
  for (const peer of peers) peer.process.stdin?.end();
  addon.setThreads(before);
}
