import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { demoDefinition, demoRequest } from '../../src/cli/demo.js';
import { evalDefinition, evalRequest } from '../../src/cli/eval.js';
import { trainDefinition, trainRequest } from '../../src/cli/train.js';
import { helpText, parseVerb, type Verb, type VerbDefinition } from '../../src/cli/verb.js';
import { DataError } from '../../src/errors.js';
import { captured, lastJson } from './captured.js';

const version = (
  JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

function failing(error: unknown): Verb {
  const definition = { name: 'fail', summary: 'Fails.', positionals: '', options: {}, overrides: false };
  return { ...definition, run: () => Promise.reject(error) };
}

describe('dispatch', () => {
  it('prints version and help', async () => {
    expect(await captured(['--version'])).toEqual({ exitCode: 0, stdout: `${version}\n`, stderr: '' });
    for (const argv of [[], ['--help'], ['-h']]) {
      const { exitCode, stdout } = await captured(argv);
      expect(exitCode).toBe(0);
      expect(stdout).toMatch(/^ {2}doctor {2}/m);
      expect(stdout).toMatch(/^ {2}inspect {2}/m);
    }
  });

  it('prints the help of a verb, also behind other options', async () => {
    const { exitCode, stdout } = await captured(['inspect', 'x', '--json', '--help']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^galago inspect <path> \[options\]\n/);
    expect(stdout).toContain('--a.b=value');
  });

  it('names the nearest verb and the nearest option, with exit code 78', async () => {
    expect(await captured(['docter'])).toEqual({
      exitCode: 78,
      stdout: '',
      stderr: 'galago: unknown verb docter; nearest is doctor\n',
    });
    expect((await captured(['doctor', '--jsn'])).stderr).toBe('doctor: unknown option --jsn; nearest is --json\n');
    expect((await captured(['doctor', '--train.epochs=3'])).stderr).toMatch(
      /^doctor: unknown option --train\.epochs; nearest/,
    );
    expect((await captured(['doctor', '--json=yes'])).stderr).toBe('doctor: --json takes no value but received yes\n');
  });

  it('exits with the code of the error and says one sentence', async () => {
    const error = new DataError('DATA_ROW', 'reader: expected 3 cells but received 2', { line: 7 });
    expect(await captured(['fail'], [failing(error)])).toEqual({
      exitCode: 65,
      stdout: '',
      stderr: 'reader: expected 3 cells but received 2\n',
    });
  });

  it('exits 1 with the stack for what nobody classified', async () => {
    const { exitCode, stderr } = await captured(['fail'], [failing(new TypeError('x is not a function'))]);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/^TypeError: x is not a function\n\s+at /);
    expect(await captured(['fail'], [failing('text')])).toEqual({ exitCode: 1, stdout: '', stderr: 'text\n' });
  });

  it('ends stdout with one JSON object under --json, also on failure', async () => {
    const { stdout } = await captured(['fail', '--json'], [failing(new DataError('DATA_ROW', 'bad row'))]);
    expect(lastJson(stdout)).toEqual({ error: { code: 'DATA_ROW', message: 'bad row' } });
  });
});

describe('options', () => {
  const verb: VerbDefinition = {
    name: 'v',
    summary: 'S.',
    positionals: '',
    options: {
      one: { type: 'string', value: 'x', help: 'once' },
      many: { type: 'string', short: 'm', multiple: true, help: 'often' },
    },
    overrides: true,
  };

  it('parses values, flags, positionals and overrides in order', () => {
    expect(parseVerb(verb, ['a', '--one', '1', '-m', 'x', '--many=y', '--b.c=1', '--json', '--d.e=2', 'z'])).toEqual({
      positionals: ['a', 'z'],
      values: { one: ['1'], many: ['x', 'y'] },
      flags: new Set(['json']),
      overrides: ['b.c=1', 'd.e=2'],
    });
  });

  it.each([
    [['--one'], /^v: expected --one <x> but received no value$/],
    [['--one='], /^v: expected --one <x> but received no value$/],
    [['--one', '1', '--one', '2'], /^v: expected --one once but received 1 and 2$/],
    [['--ones', '1'], /^v: unknown option --ones; nearest is --one$/],
    [['-x'], /^v: unknown option -x; nearest is/],
  ])('refuses %j', (argv, message) => {
    expect(() => parseVerb(verb, argv)).toThrow(message);
  });

  it.each([trainDefinition, evalDefinition, demoDefinition])('has help for every option of $name', (definition) => {
    const help = helpText(definition);
    for (const name of Object.keys(definition.options))
      expect(help).toMatch(new RegExp(`^  --${name}\\b.+ {2}\\S`, 'm'));
    expect(help.split('\n').every((line) => line.length <= 140)).toBe(true);
  });
});

describe('train', () => {
  const request = (...argv: string[]) => trainRequest(parseVerb(trainDefinition, argv));

  it('collects files, data, device, precision and overrides', () => {
    expect(
      request(
        'a.yaml',
        '--config',
        'b.yaml',
        'c.yaml',
        '--data',
        'd',
        '--device=cpu',
        '--precision=bf16',
        '--train.epochs=2',
        '--set',
        '{"a":1}',
      ),
    ).toEqual({
      kind: 'new',
      config: {
        files: ['a.yaml', 'c.yaml', 'b.yaml'],
        set: ['{"a":1}'],
        overrides: ['data.path=d', 'device=cpu', 'train.precision=bf16', 'train.epochs=2'],
      },
      runDir: null,
    });
  });

  it('resumes a run with nothing else but a device', () => {
    expect(request('--resume', 'runs/x')).toEqual({ kind: 'resume', run: 'runs/x', device: null });
    expect(request('--resume', 'runs/x', '--device', 'cuda:1')).toEqual({
      kind: 'resume',
      run: 'runs/x',
      device: 'cuda:1',
    });
    expect(() => request('--resume', 'runs/x', '--train.epochs=3')).toThrow(
      'train: --resume takes the configuration of its run but received',
    );
    expect(() => request()).toThrow('train: expected a configuration or --data <folder>');
  });
});

describe('eval', () => {
  const request = (...argv: string[]) => evalRequest(parseVerb(evalDefinition, argv));

  it('reads run, part and checkpoint', () => {
    expect(request('r')).toEqual({ run: 'r', part: 'valid', checkpoint: 'best', data: null, device: null });
    expect(request('r', '--part', 'test', '--checkpoint', 'step-40')).toMatchObject({ part: 'test', checkpoint: 40 });
  });

  it.each([
    [[], /expected one run folder but received 0/],
    [['a', 'b'], /expected one run folder but received 2/],
    [['a', '--part', 'train'], /expected --part valid or test but received train/],
    [['a', '--checkpoint', 'step-x'], /expected --checkpoint best, last or step-N but received step-x/],
  ])('refuses %j', (argv, message) => {
    expect(() => request(...argv)).toThrow(message);
  });
});

describe('demo', () => {
  const request = (...argv: string[]) => demoRequest(parseVerb(demoDefinition, argv));

  it('reads its options', () => {
    expect(request()).toEqual({
      data: null,
      full: false,
      seed: 1,
      killAt: null,
      device: null,
      runDir: null,
      overrides: [],
    });
    expect(request('--full', '--seed', '3', '--kill-at=40')).toMatchObject({ full: true, seed: 3, killAt: 40 });
  });

  it.each([
    [['x'], /expected options only but received x/],
    [['--seed', '-1'], /expected --seed/],
    [['--seed=1.5'], /expected --seed to be an integer of at least 0 but received 1\.5/],
    [['--kill-at=0'], /expected --kill-at to be an integer of at least 1 but received 0/],
  ])('refuses %j', (argv, message) => {
    expect(() => request(...argv)).toThrow(message);
  });
});
