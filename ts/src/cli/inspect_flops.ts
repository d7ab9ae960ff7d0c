import { buildModel, trainSettings } from '../train/build_model.js';
import { resolveConfig } from '../train/config.js';
import { runData, runDevice } from '../train/run.js';
import { type StepFlops, stepFlops } from '../train/step_flops.js';
import { shortNumber, textTable } from './text_table.js';
import type { Output, VerbArguments } from './verb.js';

/** `galago inspect --flops`: what one training step of a configuration costs, by module. */
export async function inspectFlops(
  path: string,
  args: VerbArguments,
  { stdout }: Output,
): Promise<Record<string, unknown>> {
  const { config } = resolveConfig({ files: [path], overrides: args.overrides });
  const place = runDevice(config);
  await using data = await runData(config);
  using model = buildModel(config, data.schema, place.name, data);
  const cost = await stepFlops(model, data, trainSettings(config));
  stdout.write(flopsTable(cost));
  return { kind: 'flops', path, ...cost };
}

const columns = ['module', 'parameters', 'forward', 'backward', 'share', 'elementwise'];

/** Modules by cost, the sum below, and how it was counted. */
export function flopsTable({ modules, rows, items, forward, backward, elementwise }: StepFlops): string {
  const all = forward + backward;
  const share = (part: number) => (all === 0 ? '-' : `${((100 * part) / all).toFixed(1)} %`);
  const amount = (value: number) => (value === 0 ? '0' : shortNumber(value));
  const byCost = [...modules].sort((a, b) => b.forward + b.backward - a.forward - a.backward);
  const lines = byCost.map((row) => [
    row.module === '' ? '(no module)' : row.module,
    amount(row.parameters),
    amount(row.forward),
    amount(row.backward),
    share(row.forward + row.backward),
    amount(row.elementwise),
  ]);
  const parameters = modules.reduce((sum, row) => sum + row.parameters, 0);
  const sums = ['sum', amount(parameters), amount(forward), amount(backward), share(all), amount(elementwise)];
  return (
    textTable(columns, [...lines, sums]) +
    `one step of ${rows} rows with ${items} different items: ${amount(all)} FLOPs, ${amount((2048 * all) / rows)} per 2,048 rows\n` +
    'forward and backward: products of vectors and matrices, 2 per multiplication and addition, nothing counted twice for memory;\n' +
    'elementwise: all other ops, one per element; optimizer not counted\n'
  );
}
