/**
 * One whole step of the demo: 128 sessions (768 rows) through text and picture encoders, FusionQFormer, query encoder and ranker, loss,
 * backward, clipping, optimizer and content table, beside the same model in PyTorch from the same weights on the same batches.
 * Goal: 1.5x. `check` is the loss of the first batch without dropout on both sides. Last come the kernels of the step by time.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { device } from '../ts/src/tensor.js';
import { bench, printKernels, threads } from './measure.js';
import { ShopStep } from './shop_step.js';

const folder = mkdtempSync(join(tmpdir(), 'galago-bench-'));
try {
  const step = await ShopStep.open({ model: { sqdc: { warmup_steps: 0 } } }); // the whole loss from the start, as the peer has it
  await step.write(folder);
  const check = await step.check();
  const { size, items, queries } = step.batches[0]!;
  const run = (): void => step.run().dispose();
  await bench(
    [
      {
        op: 'train_step',
        pass: 'whole step',
        case: `EM3 of the demo, ${size} rows, ${items.rows.length} items, ${queries?.rows.length ?? 0} queries`,
        dtype: 'float32',
        bytes: 0,
        flops: 0,
        calls: 4,
        check,
        run,
        peer: { folder },
      },
    ],
    { peer: 'train_step' },
  );

  const cpu = device('cpu');
  const steps = 32;
  cpu.setProfile(true);
  for (let i = 0; i < steps; i++) {
    run();
    if (i % 2 === 1) await cpu.synchronize();
  }
  cpu.setProfile(false);
  printKernels(cpu.profile(), steps, threads);
} finally {
  rmSync(folder, { recursive: true });
}
