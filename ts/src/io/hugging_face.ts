/**
 * Folders of encoders as Hugging Face spells them: `config.json`, `model.safetensors` or `model.safetensors.index.json` with its shards,
 * beside them tokenizer files and `preprocessor_config.json`. Python pickles (`.bin`, `.pt`) are refused by name (rule 19).
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { copyFile, mkdir, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ModelFileError, StorageError } from '../errors.js';
import { createDurably, guard, nodeEnv, storageError, systemCode, writeAll } from './env.js';
import { encodeSafetensors, type HostTensor, readSafetensors } from './safetensors.js';

/** A value of a JSON file. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** What a folder holds beside its tensors. */
export interface HuggingFaceFolder {
  readonly path: string;
  /** `config.json`. */
  readonly config: JsonObject;
  /** `preprocessor_config.json`; null where there is none. */
  readonly preprocessor: JsonObject | null;
}

const WEIGHTS = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const PICKLE = /\.(bin|pt|pth|pkl|ckpt|msgpack|h5|onnx|ot)$/;
const COPIED =
  /^(tokenizer\.json|tokenizer_config\.json|vocab\.(txt|json)|merges\.txt|special_tokens_map\.json|added_tokens\.json|spiece\.model|sentencepiece\.bpe\.model|preprocessor_config\.json)$/;

function refuse(file: string, message: string, fields: Record<string, unknown> = {}): never {
  throw new ModelFileError(`hugging face folder: ${message}`, { file, ...fields });
}

/** An object of a small file; null where there is none. */
function readJson(path: string): JsonObject | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw storageError('read', path, error);
  }
  let json: JsonValue;
  try {
    json = JSON.parse(text) as JsonValue;
  } catch (error) {
    throw new ModelFileError(`hugging face folder: expected JSON in ${path}`, { file: path }, { cause: error });
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    refuse(path, `expected one JSON object in ${path}`);
  return json as JsonObject;
}

/** Opens a folder: its small files; its tensors are read by `readHuggingFaceTensors`. Throws `ModelFileError` naming the file that is absent or wrong. */
export function openHuggingFaceFolder(path: string): HuggingFaceFolder {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) refuse(path, `expected a folder at ${path} but found nothing`);
  if (!found.isDirectory()) {
    const pickle = PICKLE.test(path) ? `; ${basename(path)} is a format that is never read (rule 19)` : '';
    refuse(path, `expected a folder with config.json and ${WEIGHTS} but received the file ${path}${pickle}`, {
      rule: pickle === '' ? undefined : 19,
    });
  }
  const config = readJson(join(path, 'config.json'));
  if (config === null) refuse(join(path, 'config.json'), `expected config.json in ${path} but found none`);
  return {
    path,
    config,
    preprocessor: readJson(join(path, 'preprocessor_config.json')),
  };
}

/** All tensors of a folder by name, each once. Throws `ModelFileError` for missing or surplus shards and tensors, all in one error. */
export async function readHuggingFaceTensors({ path }: HuggingFaceFolder): Promise<Map<string, HostTensor>> {
  const names = await guard('readdir', path, () => readdir(path));
  if (names.includes(WEIGHTS)) return readSafetensors(join(path, WEIGHTS));
  if (names.includes(INDEX)) return readShards(path, new Set(names));
  const pickles = names.filter((name) => PICKLE.test(name));
  refuse(
    path,
    `expected ${WEIGHTS} or ${INDEX} in ${path} but found ${
      pickles.length === 0
        ? 'neither'
        : `${pickles.join(', ')}, which are never read (rule 19): save the model as safetensors`
    }`,
    pickles.length === 0 ? {} : { rule: 19, found: pickles },
  );
}

async function readShards(path: string, names: ReadonlySet<string>): Promise<Map<string, HostTensor>> {
  const file = join(path, INDEX);
  const index = readJson(file);
  const map = index?.['weight_map'];
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    refuse(file, `expected an object weight_map in ${file}`);
  const tensorsOf = new Map<string, Set<string>>();
  for (const [tensor, shard] of Object.entries(map as JsonObject)) {
    if (typeof shard !== 'string' || !/^[^/\\]+\.safetensors$/.test(shard))
      refuse(
        file,
        `expected ${tensor} in a .safetensors file of the folder itself but ${file} says ${JSON.stringify(shard)}`,
        { tensor },
      );
    tensorsOf.set(shard, (tensorsOf.get(shard) ?? new Set()).add(tensor));
  }
  const missing = [...tensorsOf.keys()].filter((shard) => !names.has(shard));
  if (missing.length > 0)
    refuse(file, `expected the files that ${INDEX} names but ${missing.join(', ')} are not in ${path}`, { missing });
  const tensors = new Map<string, HostTensor>();
  const differences: string[] = [];
  for (const [shard, wanted] of tensorsOf) {
    const held = await readSafetensors(join(path, shard));
    for (const name of wanted) if (!held.has(name)) differences.push(`${shard} lacks ${name}`);
    for (const [name, tensor] of held) {
      if (wanted.has(name)) tensors.set(name, tensor);
      else differences.push(`${shard} holds ${name}, which ${INDEX} does not place there`);
    }
  }
  if (differences.length > 0)
    refuse(file, `${file} and its shards differ: ${differences.join('; ')} (rule 16)`, { rule: 16, differences });
  return tensors;
}

/**
 * Writes `source` again at `target`, a new folder: tensors of `changed` under the names that the source gives them, all others, the
 * tokenizer and preprocessor files as they are, in one `model.safetensors`. The folder appears whole or not at all. Throws `ModelFileError`
 * for a name the source lacks, `StorageError`.
 */
export async function writeHuggingFaceFolder(
  target: string,
  { source, changed }: { source: HuggingFaceFolder; changed: ReadonlyMap<string, HostTensor> },
): Promise<void> {
  const tensors = await readHuggingFaceTensors(source);
  const unknown = [...changed.keys()].filter((name) => !tensors.has(name));
  if (unknown.length > 0) refuse(source.path, `expected names of ${source.path} but received ${unknown.join(', ')}`);
  for (const [name, tensor] of changed) tensors.set(name, tensor);
  if (statSync(target, { throwIfNoEntry: false }) !== undefined)
    throw new StorageError('EEXIST', `hugging face folder: expected a new folder but ${target} exists`, {
      path: target,
      call: 'mkdir',
    });
  const draft = join(dirname(target), `.tmp-${basename(target)}-${randomBytes(8).toString('hex')}`);
  try {
    await guard('mkdir', draft, () => mkdir(draft));
    await fillFolder(draft, source, tensors);
    await guard('rename', target, () => nodeEnv.rename(draft, target));
  } finally {
    await nodeEnv.remove(draft).catch(() => undefined);
  }
}

async function fillFolder(
  folder: string,
  source: HuggingFaceFolder,
  tensors: ReadonlyMap<string, HostTensor>,
): Promise<void> {
  const path = join(folder, WEIGHTS);
  await createDurably(nodeEnv, path, async (file) => {
    const metadata = new Map([['format', 'pt']]);
    for (const part of encodeSafetensors(tensors, { metadata })) await writeAll(file, path, part);
  });
  // What was changed is float32, whatever it came in.
  const types = new Set([...tensors.values()].map(({ dtype }) => dtype));
  const half = types.has('F16') || types.has('BF16');
  const entries = Object.entries(source.config).filter(([key]) => half || !['torch_dtype', 'dtype'].includes(key));
  const config = Object.fromEntries(half ? entries : [...entries, ['torch_dtype', 'float32']]);
  const json = join(folder, 'config.json');
  await createDurably(nodeEnv, json, (file) =>
    writeAll(file, json, Buffer.from(`${JSON.stringify(config, null, 2)}\n`, 'utf8')),
  );
  for (const name of await guard('readdir', source.path, () => readdir(source.path))) {
    if (!COPIED.test(name)) continue;
    await guard('copy', join(folder, name), () => copyFile(join(source.path, name), join(folder, name)));
  }
}
