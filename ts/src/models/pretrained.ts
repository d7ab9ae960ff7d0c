/** Encoders with the weights of a Hugging Face folder: read, checked tensor by tensor, and written back. */
import { ArgumentError, ModelFileError } from '../errors.js';
import { FLOAT_DTYPES, floatValues } from '../io/float_values.js';
import {
  type HuggingFaceFolder,
  openHuggingFaceFolder,
  readHuggingFaceTensors,
  writeHuggingFaceFolder,
} from '../io/hugging_face.js';
import { type HostTensor, hostTensor, requireFinite } from '../io/safetensors.js';
import { BlankInitializer, type Module } from '../nn/module.js';
import { PretrainedImageEncoder } from '../nn/pretrained_image_encoder.js';
import { PretrainedTextEncoder } from '../nn/pretrained_text_encoder.js';
import { assign, type DeviceName, sizeOf } from '../tensor.js';
import { type ImageArchitecture, readArchitecture, type TextArchitecture, type Tower } from './pretrained_config.js';
import { isHead, isIgnored, optionalModule, shapeInFolder, spellings, tensorPlace } from './pretrained_names.js';

/** A folder, read: its architectures (of the towers that were asked for) and all its tensors. */
export interface PretrainedWeights {
  readonly folder: HuggingFaceFolder;
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly text: TextArchitecture | null;
  readonly image: ImageArchitecture | null;
}

/** Encoders of one folder. */
export interface PretrainedEncoders {
  readonly text: PretrainedTextEncoder | null;
  readonly image: PretrainedImageEncoder | null;
}

/** Those of a model's encoders that are published ones. */
export function publishedOf({
  text,
  image,
}: {
  readonly text: Module | null;
  readonly image: Module | null;
}): PretrainedEncoders {
  return {
    text: text instanceof PretrainedTextEncoder ? text : null,
    image: image instanceof PretrainedImageEncoder ? image : null,
  };
}

const both: readonly Tower[] = ['text', 'image'];

/** Reads a folder. Throws `ModelFileError` for what it says, `StorageError` for what the file system says. */
export async function readPretrained(
  path: string,
  { towers = both }: { towers?: readonly Tower[] } = {},
): Promise<PretrainedWeights> {
  const folder = openHuggingFaceFolder(path);
  const { text, image } = readArchitecture(folder, towers);
  const tensors = await readHuggingFaceTensors(folder);
  return { folder, tensors, text: text && withoutAbsent(text, tensors), image: image && withoutAbsent(image, tensors) };
}

/** Leaves out the head that the folder was saved without. */
function withoutAbsent<T extends TextArchitecture | ImageArchitecture>(
  architecture: T,
  tensors: ReadonlyMap<string, HostTensor>,
): T {
  const { family, options } = architecture;
  const optional = optionalModule(family);
  if (optional === null || options.head === null) return architecture;
  const held = ['weight', 'bias'].some((leaf) =>
    spellings(family, tensorPlace(family, `${optional}.${leaf}`)!.name).some((name) => tensors.has(name)),
  );
  return held ? architecture : { ...architecture, options: { ...options, head: null } };
}

/** A tensor of a folder and the paths of ours that it holds, by rows one below the other. */
interface FoundTensor {
  readonly name: string;
  readonly paths: readonly string[];
}

/** Finds every tensor of `encoder` in a folder; what is missing or has another shape or dtype is added to `differences`. */
function findTensors(
  encoder: Module,
  { family, options }: TextArchitecture | ImageArchitecture,
  tensors: ReadonlyMap<string, HostTensor>,
  differences: string[],
): FoundTensor[] {
  const byName = new Map<string, string[]>();
  for (const path of encoder.state().keys()) {
    if (path.includes('.lora.')) continue; // an adapter's, in a folder of its own
    const place = tensorPlace(family, path);
    if (place === null)
      throw new ArgumentError(`pretrained: expected a place for ${path} in folders of ${family}`, { argument: path });
    const paths = byName.get(place.name) ?? new Array<string>(place.of);
    paths[place.part] = path;
    byName.set(place.name, paths);
  }
  const found: FoundTensor[] = [];
  const state = encoder.state();
  for (const [wanted, paths] of byName) {
    const { shape } = state.get(paths[0]!)!;
    const patch = 'patch' in options ? options.patch : null;
    const expected = shapeInFolder(family, paths[0]!, { shape, of: paths.length, patch }).join(', ');
    const names = spellings(family, wanted).filter((name) => tensors.has(name));
    const name = names[0];
    if (name === undefined) {
      differences.push(`missing ${spellings(family, wanted)[0]} (${expected})`);
      continue;
    }
    if (names.length > 1) differences.push(`${names.join(' and ')} are the same tensor`);
    const { dtype, shape: given } = tensors.get(name)!;
    if (given.join(', ') !== expected)
      differences.push(`${name}: expected (${expected}) but received (${given.join(', ')})`);
    if (!FLOAT_DTYPES.includes(dtype))
      differences.push(`${name}: expected ${FLOAT_DTYPES.join(', ')} but received ${dtype}`);
    found.push({ name, paths });
  }
  return found;
}

/** Every tensor of `encoders` in the folder. Missing, extra and mismatched ones come as one `ModelFileError` with the full list (rule 16). */
function placesOf(
  { folder, tensors, text, image }: PretrainedWeights,
  encoders: PretrainedEncoders,
): { readonly encoder: Module; readonly found: readonly FoundTensor[] }[] {
  const differences: string[] = [];
  const places: { encoder: Module; found: FoundTensor[] }[] = [];
  const families: (TextArchitecture | ImageArchitecture)['family'][] = [];
  for (const [encoder, architecture] of [
    [encoders.text, text],
    [encoders.image, image],
  ] as const) {
    if (encoder === null || architecture === null) continue;
    families.push(architecture.family);
    places.push({ encoder, found: findTensors(encoder, architecture, tensors, differences) });
  }
  const used = new Set(places.flatMap(({ found }) => found.map(({ name }) => name)));
  // A head that the encoder was built without is no surplus.
  for (const [name, { shape }] of tensors)
    if (
      !used.has(name) &&
      families.every((family) => !isHead(family, name)) &&
      families.some((family) => !isIgnored(family, name))
    )
      differences.push(`extra ${name} (${shape.join(', ')})`);
  if (differences.length > 0)
    throw new ModelFileError(`hugging face folder: ${folder.path}: ${differences.join('; ')} (rule 16)`, {
      file: folder.path,
      rule: 16,
      differences,
    });
  return places;
}

/**
 * Writes the weights of a folder over those of encoders that were made of its architectures. Throws `ModelFileError`: one for all missing,
 * extra and mismatched tensors (rule 16), and for values that are not finite (rule 17).
 */
export function fillEncoders(weights: PretrainedWeights, encoders: PretrainedEncoders): void {
  const places = placesOf(weights, encoders);
  for (const { encoder, found } of places) {
    const state = encoder.state();
    for (const { name, paths } of found) {
      const tensor = weights.tensors.get(name)!;
      requireFinite(new Map([[name, tensor]]), weights.folder.path);
      const values = floatValues(tensor);
      const size = values.length / paths.length;
      paths.forEach((path, i) => {
        const target = state.get(path)!;
        const part = paths.length === 1 ? values : values.slice(i * size, (i + 1) * size);
        assign(target, target.dtype === 'float64' ? Float64Array.from(part) : part);
      });
    }
  }
}

/** Encoders of a folder, ready to use, on `device` (default cpu); the caller disposes them. Errors as in `readPretrained` and `fillEncoders`. */
export async function openPretrained(
  path: string,
  { towers = both, device = 'cpu' }: { towers?: readonly Tower[]; device?: DeviceName } = {},
): Promise<PretrainedEncoders & { readonly weights: PretrainedWeights }> {
  const weights = await readPretrained(path, { towers });
  const blank = new BlankInitializer(0, 'float32', device);
  const encoders: PretrainedEncoders = {
    text: weights.text && new PretrainedTextEncoder(blank, weights.text.options),
    image: weights.image && new PretrainedImageEncoder(blank, weights.image.options),
  };
  try {
    fillEncoders(weights, encoders);
  } catch (error) {
    encoders.text?.dispose();
    encoders.image?.dispose();
    throw error;
  }
  return { ...encoders, weights };
}

/**
 * Writes trained encoders as a folder at `target`, which must not exist: names, configuration and tokenizer as in the folder that they
 * came from, their own tensors in float32; low-rank updates are not in it, unless they were merged. Waits for the device. Throws `StorageError`, `ModelFileError`.
 */
export async function savePretrained(
  target: string,
  weights: PretrainedWeights,
  encoders: PretrainedEncoders,
): Promise<void> {
  const changed = new Map<string, HostTensor>();
  for (const { encoder, found } of placesOf(weights, encoders)) {
    const state = encoder.state();
    for (const { name, paths } of found) {
      const parts = await Promise.all(paths.map((path) => state.get(path)!.values()));
      const { shape } = weights.tensors.get(name)!;
      const values = new Float32Array(sizeOf(shape));
      let at = 0;
      for (const part of parts) {
        values.set(Float32Array.from(part as ArrayLike<number>), at);
        at += part.length;
      }
      changed.set(name, hostTensor('F32', shape, values));
    }
  }
  await writeHuggingFaceFolder(target, { source: weights.folder, changed });
}
