/**
 * node train_step.js <device> <folder> [rounds]: one whole step of the demo's EM3 on a device, in float32 and, where it has that, in bfloat16, with
 * the demo's batches and with batches of 1024 sessions. Prints JSON lines as `galago bench` does and writes weights and batches into
 * <folder>/<sessions> for bench/peers/gpu/train_step.py. `check` is the loss of the first batch without dropout.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { addon, probeModule } from '../../ts/src/native.js';
import { type DeviceName, device } from '../../ts/src/tensor.js';
import { ShopStep } from '../shop_step.js';

const [name = 'cuda', folder = '.', roundsText = '20'] = process.argv.slice(2);
const control = device(name as DeviceName);
const deviceName =
  name.startsWith('cuda') && name !== 'cuda-emu' ? (probeModule('cuda').devices[0]?.name ?? name) : name;
const rounds = Number(roundsText);
const quick = rounds === 1;
const round = (x: number) => Number(x.toPrecision(4));

for (const sessions of quick ? [4] : [128, 1024])
  for (const precision of name === 'cpu' ? (['float32'] as const) : (['float32', 'bf16'] as const)) {
    const train = { precision, train_batch_size: sessions };
    const size = quick ? { count: 2, warmUp: 0 } : sessions === 128 ? {} : { count: 4, warmUp: 10 };
    const step = await ShopStep.open({ device: control.name, train, model: { sqdc: { warmup_steps: 0 } } }, size);
    if (precision === 'float32') {
      mkdirSync(join(folder, String(sessions)), { recursive: true });
      await step.write(join(folder, String(sessions)));
    }
    const check = await step.check();
    const calls = quick ? 1 : 8;
    const samples: number[] = [];
    addon.resetPeak(control.name);
    for (let i = 0; i < rounds + 2; i++) {
      await control.synchronize();
      const start = process.hrtime.bigint();
      for (let call = 0; call < calls; call++) step.run().dispose();
      await control.synchronize();
      if (i >= 2) samples.push(Number(process.hrtime.bigint() - start) / 1e3 / calls);
    }
    samples.sort((a, b) => a - b);
    const at = (q: number) => round(samples[Math.floor(q * (samples.length - 1))]!);
    const line = {
      op: 'trainStep',
      pass: 'whole step',
      case: `EM3 of the demo, ${sessions} sessions`,
      impl: 'galago',
      variant: 'portable',
      dtype: precision === 'bf16' ? 'bfloat16' : 'float32',
      device: deviceName,
      us_p10: at(0.1),
      us_median: at(0.5),
      bytes: 0,
      flops: 0,
      floor_us: null,
      share: null,
      peak_mb: round(control.memory().peak / 1e6),
      check: round(check),
    };
    console.log(JSON.stringify(line));
  }
