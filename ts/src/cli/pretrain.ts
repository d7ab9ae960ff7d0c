import { resolveConfig } from '../train/config.js';
import { pretrainRun } from '../train/pretrain.js';
import { runConfig } from '../train/run.js';
import { interruptible } from './interrupt.js';
import { shown } from './shown_run.js';
import { runOptions, trainDefinition, trainRequest } from './train.js';
import type { Verb, VerbDefinition } from './verb.js';

export const pretrainDefinition: VerbDefinition = {
  ...trainDefinition,
  name: 'pretrain',
  summary: 'Trains the encoders of a configuration alone, by contrast: the first stage of two_stage.',
  options: runOptions,
  notes: [
    'model.two_stage_epochs says how long; model.training of the configuration says nothing here. Then the same configuration trains with',
    'these encoders: galago train <config.yaml> --from <run> --model.training=frozen (or two_stage, stop_gradient, end_to_end).',
  ],
};

/** `galago pretrain`. */
export const pretrain: Verb = {
  ...pretrainDefinition,
  async run(args, output) {
    const request = trainRequest(args, 'pretrain');
    const resolved =
      request.kind === 'new'
        ? resolveConfig({
            ...request.config,
            overrides: [...(request.config.overrides ?? []), 'model.training=two_stage'],
          })
        : runConfig(request.run, request.device);
    return interruptible(output.stderr, async (signal) => {
      try {
        const result = await shown(
          resolved,
          output,
          {
            signal,
            runDir: request.kind === 'new' ? request.runDir : request.run,
            resume: request.kind === 'resume',
          },
          pretrainRun,
        );
        const { path, stopped, step, losses, checkpoint } = result;
        const said = stopped
          ? `stopped at step ${step}; galago pretrain --resume ${path} continues`
          : `loss by epoch: ${losses.map((loss) => loss.toFixed(4)).join(' ')}\nrun ${path}`;
        output.stdout.write(`${said}\n`);
        return { run: path, stopped, step, losses, checkpoint };
      } catch (error) {
        if (!signal.aborted || error !== signal.reason) throw error;
        output.stderr.write('stopped before training began\n');
        return { stopped: true };
      }
    });
  },
};
