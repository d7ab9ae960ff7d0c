import { type ParseArgsConfig, parseArgs } from 'node:util';
import { ConfigError } from '../errors.js';
import { nearest } from '../train/config_keys.js';

/** One option of a verb. */
export interface OptionSpec {
  readonly type: 'string' | 'boolean';
  readonly short?: string;
  readonly multiple?: boolean;
  /** What stands for the value in the help: `--data <folder>`. */
  readonly value?: string;
  readonly help: string;
}

/** What a verb accepts: the part of it that help and parsing need. */
export interface VerbDefinition {
  readonly name: string;
  readonly summary: string;
  /** Positional arguments as the help shows them. */
  readonly positionals: string;
  readonly options: Readonly<Record<string, OptionSpec>>;
  /** Whether `--a.b=value` sets a key of the configuration. */
  readonly overrides: boolean;
  /** Further lines of the help. */
  readonly notes?: readonly string[];
}

/** Parsed command line of one verb. */
export interface VerbArguments {
  readonly positionals: readonly string[];
  /** Values of options that take one, all that were given, in order. */
  readonly values: Readonly<Record<string, readonly string[]>>;
  readonly flags: ReadonlySet<string>;
  /** `train.epochs=2`: overrides of the configuration, in order. */
  readonly overrides: readonly string[];
}

/** Where a verb writes. */
export interface Output {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
}

/** A verb with its body. What it returns is the result that `--json` prints. */
export interface Verb extends VerbDefinition {
  run(args: VerbArguments, output: Output): Promise<Record<string, unknown>>;
}

/** Options of every verb. */
export const commonOptions: Readonly<Record<string, OptionSpec>> = {
  json: { type: 'boolean', help: 'the last line of stdout is one JSON object with the results' },
  help: { type: 'boolean', short: 'h', help: 'this text' },
};

/** Parses what follows the verb. An unknown option is a `ConfigError` that names the nearest one. */
export function parseVerb(verb: VerbDefinition, argv: readonly string[]): VerbArguments {
  const specs = { ...verb.options, ...commonOptions };
  const options: ParseArgsConfig['options'] = {};
  for (const [name, { type, short }] of Object.entries(specs)) {
    options[name] = short === undefined ? { type, multiple: true } : { type, short, multiple: true };
  }
  const { tokens } = parseArgs({ args: [...argv], options, allowPositionals: true, strict: false, tokens: true });
  const positionals: string[] = [];
  const values: Record<string, string[]> = {};
  const flags = new Set<string>();
  const overrides: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const { name, rawName, value } = token;
    const spec = Object.hasOwn(specs, name) ? specs[name] : undefined;
    if (!spec) {
      if (verb.overrides && name.includes('.')) {
        overrides.push(value === undefined ? name : `${name}=${value}`);
        continue;
      }
      const near = nearest(name, Object.keys(specs));
      throw new ConfigError(`${verb.name}: unknown option ${rawName}; nearest is --${near}`, {
        key: rawName,
        nearest: near,
      });
    }
    if (spec.type === 'boolean') {
      if (value !== undefined)
        throw new ConfigError(`${verb.name}: --${name} takes no value but received ${value}`, { key: name });
      flags.add(name);
      continue;
    }
    if (value === undefined || value === '') {
      throw new ConfigError(`${verb.name}: expected --${name} <${spec.value ?? 'value'}> but received no value`, {
        key: name,
      });
    }
    values[name] = [...(values[name] ?? []), value];
    if (spec.multiple !== true && values[name].length > 1) {
      throw new ConfigError(`${verb.name}: expected --${name} once but received ${values[name].join(' and ')}`, {
        key: name,
      });
    }
  }
  return { positionals, values, flags, overrides };
}

/** Value of an option that may be given once, or undefined. */
export function single(args: VerbArguments, name: string): string | undefined {
  return args.values[name]?.[0];
}

/** Value of an option that must be an integer of at least `least`. */
export function integer(verb: VerbDefinition, args: VerbArguments, name: string, least: number): number | undefined {
  const text = single(args, name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least) {
    throw new ConfigError(
      `${verb.name}: expected --${name} to be an integer of at least ${least} but received ${text}`,
      { key: name },
    );
  }
  return value;
}

/** The help text of a verb. */
export function helpText(verb: VerbDefinition): string {
  const rows = Object.entries({ ...verb.options, ...commonOptions }).map(([name, spec]) => {
    const value = spec.type === 'string' ? ` <${spec.value ?? 'value'}>` : '';
    return [`  ${spec.short ? `-${spec.short}, ` : ''}--${name}${value}`, spec.help] as const;
  });
  if (verb.overrides)
    rows.push(['  --a.b=value', 'sets a key of the configuration, for example --train.epochs=2; commas for lists']);
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  const usage = ['galago', verb.name, verb.positionals, '[options]'].filter((part) => part !== '').join(' ');
  const lines = [`${usage}`, '', verb.summary, '', ...rows.map(([left, right]) => left.padEnd(width) + right)];
  if (verb.notes) lines.push('', ...verb.notes);
  return `${lines.join('\n')}\n`;
}
