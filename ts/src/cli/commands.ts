import { ConfigError, GalagoError, IdError } from '../errors.js';
import { packageVersion } from '../io/package_root.js';
import { nearest } from '../train/config_keys.js';
import { bench } from './bench.js';
import { demo } from './demo.js';
import { doctor } from './doctor.js';
import { evaluate } from './eval.js';
import { exportVerb } from './export.js';
import { importVerb } from './import.js';
import { inspect } from './inspect.js';
import { pretrain } from './pretrain.js';
import { train } from './train.js';
import { helpText, type Output, parseVerb, type Verb } from './verb.js';

/** Every verb there is, in the order of the help. */
export const verbs: readonly Verb[] = [demo, train, pretrain, evaluate, exportVerb, importVerb, inspect, bench, doctor];

function generalHelp(): string {
  const width = Math.max(...verbs.map(({ name }) => name.length)) + 2;
  return [
    'galago <verb> [options]',
    '',
    'Trains multimodal recommenders: text and picture encoders learn in the same step as the ranker.',
    '',
    ...verbs.map(({ name, summary }) => `  ${name.padEnd(width)}${summary}`),
    '',
    '  --version   version of galago',
    '  --help      this text; galago <verb> --help for a verb',
    '',
  ].join('\n');
}

/** What `error` says to a person, and with which code the process ends. Only errors that nobody classified show a stack. */
function explain(error: unknown): { text: string; code: string; exitCode: number } {
  if (error instanceof GalagoError || error instanceof IdError) {
    return { text: error.message, code: error.code, exitCode: error.exitCode };
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { text, code: 'UNCLASSIFIED', exitCode: 1 };
}

/**
 * Runs one command line (without `node` and script) and resolves to the exit code. Writes results to stdout, everything else to
 * stderr; with `--json` the last line of stdout is one JSON object, also when the command fails: then it is `{"error": ...}`.
 */
export async function runCommand(
  argv: readonly string[],
  output: Output,
  known: readonly Verb[] = verbs,
): Promise<number> {
  const [name, ...rest] = argv;
  const json = rest.includes('--json');
  try {
    if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
      output.stdout.write(generalHelp());
      return 0;
    }
    if (name === '--version') {
      output.stdout.write(`${packageVersion()}\n`);
      return 0;
    }
    const verb = known.find((candidate) => candidate.name === name);
    if (!verb) {
      const near = nearest(
        name,
        known.map((candidate) => candidate.name),
      );
      throw new ConfigError(`galago: unknown verb ${name}; nearest is ${near}`, { key: name, nearest: near });
    }
    if (rest.includes('--help') || rest.includes('-h')) {
      output.stdout.write(helpText(verb));
      return 0;
    }
    const result = await verb.run(parseVerb(verb, rest), output);
    if (json) output.stdout.write(`${JSON.stringify({ verb: verb.name, ...result })}\n`);
    return 0;
  } catch (error) {
    const { text, code, exitCode } = explain(error);
    output.stderr.write(`${text}\n`);
    if (json)
      output.stdout.write(
        `${JSON.stringify({ error: { code, message: error instanceof Error ? error.message : String(error) } })}\n`,
      );
    return exitCode;
  }
}
