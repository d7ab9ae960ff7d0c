/**
 * LoRA adapters in the layout of the library PEFT: a folder of `adapter_config.json` and `adapter_model.safetensors`, the latter with
 * `base_model.model.<module>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r) for each adapted linear layer; the update of a layer is
 * (lora_alpha / r) B A. Options of PEFT that change what is computed and that we lack are refused by name.
 */
import { join } from 'node:path';
import { isLosslessNumber, LosslessNumber, parse, stringify } from 'lossless-json';
import { ModelFileError } from '../errors.js';
import { type Env, guard, nodeEnv, replaceFile } from './env.js';
import { encodeSafetensors, type HostTensor, parseSafetensors, type SafetensorsDtype } from './safetensors.js';

/** The two matrices of one linear layer: a (r, in), b (out, r); F32, F16 or BF16. */
export interface PeftLayer {
  readonly a: HostTensor;
  readonly b: HostTensor;
}

export interface PeftAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  /** Names of modules (a module's path, or its end after a dot), 'all-linear', or a pattern of whole paths. */
  readonly targets: readonly string[] | string;
  /** By the module's path in the base model, in the order of the file. */
  readonly layers: ReadonlyMap<string, PeftLayer>;
  /** All of `adapter_config.json` as it was read, numbers as their text; absent for an adapter that was made here. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Metadata of the safetensors file. Default: format pt, as PEFT writes it. */
  readonly metadata?: ReadonlyMap<string, string>;
}

export const peftFiles = { config: 'adapter_config.json', model: 'adapter_model.safetensors' } as const;

const PREFIX = 'base_model.model.';
const NAME = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/;
const DTYPES: readonly SafetensorsDtype[] = ['F32', 'F16', 'BF16'];
/** Keys that change nothing of what an adapter computes, whatever they hold. */
const IGNORED = new Set([
  'auto_mapping',
  'base_model_name_or_path',
  'inference_mode',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'task_type',
]);
/** How an adapter was started: these leave the base model as it is; others (pissa, olora, ...) change it. */
const STARTS: readonly unknown[] = [undefined, null, true, false, 'gaussian', 'orthogonal'];

function refuse(file: string, message: string, fields: Record<string, unknown> = {}): never {
  throw new ModelFileError(`peft: ${file}: ${message}`, { file, ...fields });
}

function plain(value: unknown): unknown {
  return isLosslessNumber(value) ? Number(value.value) : value;
}

/** Nothing, as PEFT spells it for an option that is off. */
function isOff(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === 'object' && !isLosslessNumber(value) && Object.keys(value).length === 0;
}

/** Options that we lack, each as `key value`. */
function unsupported(config: Readonly<Record<string, unknown>>): string[] {
  const found: string[] = [];
  const must = (key: string, ok: boolean): void => {
    if (!ok) found.push(`${key} ${stringify(config[key]) ?? 'missing'}`);
  };
  must('peft_type', config['peft_type'] === 'LORA');
  for (const [key, value] of Object.entries(config)) {
    if (IGNORED.has(key) || ['peft_type', 'r', 'lora_alpha', 'lora_dropout', 'target_modules'].includes(key)) continue;
    if (key === 'bias') must(key, value === 'none');
    else if (key === 'init_lora_weights') must(key, STARTS.includes(value));
    else must(key, isOff(value));
  }
  return found;
}

interface ConfigValues extends Pick<PeftAdapter, 'rank' | 'alpha' | 'dropout' | 'targets'> {
  readonly config: Readonly<Record<string, unknown>>;
}

function parseConfig(text: string, file: string): ConfigValues {
  let config: unknown;
  try {
    config = parse(text);
  } catch (cause) {
    refuse(file, `expected JSON: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  if (typeof config !== 'object' || config === null || Array.isArray(config)) refuse(file, 'expected a JSON object');
  const fields = config as Record<string, unknown>;
  const options = unsupported(fields);
  if (options.length > 0)
    refuse(file, `expected a plain LoRA adapter but it asks for what galago does not have: ${options.join(', ')}`, {
      options,
    });
  const number = (key: string, fallback: number | null, ok: (x: number) => boolean, what: string): number => {
    const value = fields[key] === undefined || fields[key] === null ? fallback : plain(fields[key]);
    if (typeof value === 'number' && ok(value)) return value;
    return refuse(file, `expected ${key} to be ${what} but received ${stringify(fields[key]) ?? 'nothing'}`, { key });
  };
  const rank = number('r', null, (x) => Number.isInteger(x) && x > 0, 'an integer above 0');
  const alpha = number('lora_alpha', null, Number.isFinite, 'a number');
  const dropout = number('lora_dropout', 0, (x) => x >= 0 && x < 1, 'a number in [0, 1)');
  const targets = fields['target_modules'];
  const isList = Array.isArray(targets) && targets.length > 0 && targets.every((name) => typeof name === 'string');
  if (typeof targets !== 'string' && !isList)
    refuse(file, `expected target_modules to be names or a pattern but received ${stringify(targets) ?? 'nothing'}`, {
      key: 'target_modules',
    });
  return { rank, alpha, dropout, targets: targets as readonly string[] | string, config: fields };
}

function parseLayers(tensors: ReadonlyMap<string, HostTensor>, rank: number, file: string): Map<string, PeftLayer> {
  const wrong: string[] = [];
  const halves = new Map<string, { a?: HostTensor; b?: HostTensor }>();
  for (const [name, tensor] of tensors) {
    const [, module, half] = NAME.exec(name) ?? [];
    if (module === undefined) {
      wrong.push(`${name} is no lora_A.weight or lora_B.weight of ${PREFIX}<module>`);
      continue;
    }
    const { dtype, shape } = tensor;
    const expected = half === 'A' ? `(r=${rank}, in)` : `(out, r=${rank})`;
    if (shape.length !== 2 || shape[half === 'A' ? 0 : 1] !== rank)
      wrong.push(`${name}: expected shape ${expected} but received (${shape.join(', ')})`);
    if (!DTYPES.includes(dtype)) wrong.push(`${name}: expected F32, F16 or BF16 but received ${dtype}`);
    const pair = halves.get(module) ?? {};
    halves.set(module, half === 'A' ? { ...pair, a: tensor } : { ...pair, b: tensor });
  }
  const layers = new Map<string, PeftLayer>();
  for (const [module, { a, b }] of halves) {
    if (a !== undefined && b !== undefined) layers.set(module, { a, b });
    else wrong.push(`${PREFIX}${module} has no lora_${a === undefined ? 'A' : 'B'}.weight`);
  }
  if (layers.size === 0 && wrong.length === 0) wrong.push('it holds no tensors');
  if (wrong.length > 0) refuse(file, wrong.join('; '), { differences: wrong });
  return layers;
}

/**
 * Reads an adapter folder. Errors: `ModelFileError` that names every option and tensor that is not as expected (fields: file, options or
 * differences; rule for what safetensors refuses), `StorageError`.
 */
export async function readPeft(folder: string): Promise<PeftAdapter> {
  const [configFile, modelFile] = [join(folder, peftFiles.config), join(folder, peftFiles.model)];
  const text = Buffer.from(await guard('read', configFile, () => nodeEnv.read(configFile))).toString('utf8');
  const values = parseConfig(text, configFile);
  const bytes = await guard('read', modelFile, () => nodeEnv.read(modelFile));
  const { tensors, metadata } = parseSafetensors(bytes, { file: modelFile, finite: true });
  return { ...values, layers: parseLayers(tensors, values.rank, modelFile), metadata };
}

/** What PEFT writes for a plain LoRA adapter; its own keys where the adapter was read. */
function configOf({ rank, alpha, dropout, targets, config }: PeftAdapter): Record<string, unknown> {
  const same = (key: string, value: number): unknown => (plain(config?.[key]) === value ? config?.[key] : value);
  return {
    ...(config ?? {
      auto_mapping: null,
      base_model_name_or_path: null,
      bias: 'none',
      fan_in_fan_out: false,
      inference_mode: true,
      init_lora_weights: true,
      layers_pattern: null,
      layers_to_transform: null,
      modules_to_save: null,
      peft_type: 'LORA',
      rank_pattern: {},
      alpha_pattern: {},
      revision: null,
      task_type: 'FEATURE_EXTRACTION',
      use_dora: false,
      use_rslora: false,
    }),
    r: same('r', rank),
    lora_alpha: same('lora_alpha', alpha),
    ...(config !== undefined && config['lora_dropout'] === undefined && dropout === 0
      ? {}
      : { lora_dropout: same('lora_dropout', dropout) }),
    target_modules: targets,
  };
}

/** Keys in order, as PEFT writes them, at every depth. */
function ordered(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(ordered);
  if (typeof value !== 'object' || value === null || value instanceof LosslessNumber) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, member]) => [key, ordered(member)]),
  );
}

/**
 * Writes an adapter folder, which may exist; each file whole or not at all. What `readPeft` gave is written with the same values: for
 * a folder of PEFT's, and for ours, to the same bytes. Errors: `ModelFileError` where ranks and shapes disagree, `StorageError`.
 */
export async function writePeft(folder: string, adapter: PeftAdapter, env: Env = nodeEnv): Promise<void> {
  const { layers, rank, metadata = new Map([['format', 'pt']]) } = adapter;
  const tensors = new Map<string, HostTensor>();
  for (const [module, { a, b }] of layers) {
    tensors.set(`${PREFIX}${module}.lora_A.weight`, a);
    tensors.set(`${PREFIX}${module}.lora_B.weight`, b);
  }
  parseLayers(tensors, rank, folder);
  // PEFT's files are ASCII
  const text = (stringify(ordered(configOf(adapter)), null, 2) ?? '').replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  await guard('mkdir', folder, () => env.makeDirectory(folder));
  await replaceFile(env, join(folder, peftFiles.model), ...encodeSafetensors(tensors, { metadata }));
  await replaceFile(env, join(folder, peftFiles.config), Buffer.from(text));
}
