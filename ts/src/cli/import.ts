import { writeFileSync } from 'node:fs';
import { stringify } from 'yaml';
import { ConfigError, StorageError } from '../errors.js';
import { readConfigFile, resolveConfig } from '../train/config.js';
import { type Imported, importFuxictr, importMmrec, importRecbole } from '../train/import_config.js';
import { single, type Verb, type VerbArguments, type VerbDefinition } from './verb.js';

export const importDefinition: VerbDefinition = {
  name: 'import',
  summary:
    'Writes the configuration of a RecBole, FuxiCTR or MMRec experiment as ours, and lists what has no counterpart.',
  positionals: 'recbole <config.yaml> | fuxictr <dataset.yaml> <model.yaml> | mmrec <config.yaml ...>',
  options: {
    expid: { type: 'string', value: 'name', help: 'fuxictr: experiment of the model file' },
    out: { type: 'string', value: 'file', help: 'where the configuration goes; without it to stdout' },
  },
  overrides: false,
};

function imported(args: VerbArguments): Imported {
  const [format, ...files] = args.positionals;
  const expid = single(args, 'expid');
  const values = files.map((file) => readConfigFile(file).values);
  if (format === 'fuxictr') {
    if (values.length !== 2 || expid === undefined)
      throw new ConfigError('import: expected fuxictr <dataset.yaml> <model.yaml> --expid <name>', { key: 'fuxictr' });
    return importFuxictr(values[0]!, values[1]!, expid);
  }
  if ((format !== 'recbole' && format !== 'mmrec') || values.length === 0 || expid !== undefined)
    throw new ConfigError(
      `import: expected recbole, fuxictr or mmrec and its files but received ${args.positionals.join(' ') || 'nothing'}`,
      { key: 'format' },
    );
  const merged = Object.assign({}, ...values) as (typeof values)[number]; // a later file wins, key by key
  return format === 'recbole' ? importRecbole(merged) : importMmrec(merged);
}

/** `galago import`. What it writes has passed every check of a configuration. */
export const importVerb: Verb = {
  ...importDefinition,
  async run(args, { stdout, stderr }) {
    const { config, unmatched } = imported(args);
    resolveConfig({ object: config });
    const lines = unmatched.map(
      ({ key, value, reason }) => `${key}: ${JSON.stringify(value)}${reason === '' ? '' : ` (${reason})`}`,
    );
    const head = lines.map((line) => `# no counterpart: ${line}\n`).join('');
    const text = head + stringify(config, { lineWidth: 0, version: '1.2' });
    const out = single(args, 'out');
    if (out === undefined) stdout.write(text);
    else {
      try {
        writeFileSync(out, text, { flag: 'wx' });
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code ?? 'EIO';
        throw new StorageError(
          code,
          `import: cannot write ${out}: ${code}`,
          { path: out, call: 'write' },
          { cause: error },
        );
      }
      stdout.write(`wrote ${out}\n`);
    }
    for (const line of lines) stderr.write(`no counterpart: ${line}\n`);
    return { out: out ?? null, config, unmatched };
  },
};
