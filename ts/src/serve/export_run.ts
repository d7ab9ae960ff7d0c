/** From a run folder to an export: for galago's predictor, or in the forms that other programs read. */
import { ArgumentError, ConfigError } from '../errors.js';
import { writeIdLines } from '../io/fbin.js';
import { writeNpy } from '../io/npy.js';
import type { OnnxRuntime } from '../io/onnx_runtime.js';
import { saveEncoderAdapters } from '../models/encoder_adapters.js';
import { type OpenRunOptions, openRun } from '../train/open_run.js';
import { encoderSources, saveToFolders, weightsKeys } from '../train/published_encoders.js';
import { createFolder, requireEmpty } from './export_files.js';
import {
  type ExportFormat,
  type FormatContext,
  type IdVectors,
  type SearchVectors,
  searchVectors,
  writeVectors,
  writeWeights,
} from './export_formats.js';
import { type ExportedModel, exportedItems, exportModel } from './export_model.js';
import { type OnnxContext, type Parity, writeOnnx } from './export_onnx.js';

export interface ExportRunOptions extends OpenRunOptions {
  readonly run: string;
  /** Folder of the export; null: only `vectors`. */
  readonly out: string | null;
  /** What the folder holds. Default `serving`, what a predictor opens, which stands alone; the others may stand side by side. */
  readonly to?: readonly ExportFormat[];
  readonly items?: 'all' | 'train';
  /**
   * A `.npy` file for item vectors (items, width) float32; the ids go beside it, one per line, to `<name>.ids.txt`. Vectors of users, where
   * scores are products of the two, to `<name>.users.npy` and `<name>.users.ids.txt`.
   */
  readonly vectors?: string | null;
  /** Where ONNX Runtime comes from, to compare graphs with. Default: the package `onnxruntime-node`, null where it is not installed. */
  readonly openRuntime?: () => Promise<OnnxRuntime | null>;
}

export interface ExportedRun {
  /** Name of the checkpoint. */
  readonly checkpoint: string;
  readonly step: number;
  /** Of `serving`; else null. */
  readonly exported: ExportedModel | null;
  /** How ONNX graphs compared with our scores; null where none were written. */
  readonly parity: Parity | null;
}

function checkFormats(to: readonly ExportFormat[]): Set<ExportFormat> {
  const formats = new Set(to);
  const fail = (message: string): never => {
    throw new ArgumentError(`export: ${message}`, { argument: 'to' });
  };
  if (formats.size === 0) fail('expected at least one form but received none');
  if (formats.has('serving') && formats.size > 1)
    fail('serving has a folder of its own: export the others to another one');
  return formats;
}

/**
 * Exports a checkpoint of a run. Throws what `galago eval` throws, `ArgumentError` for a folder that holds something or forms that do not go
 * together, `OnnxExportError`, `ConfigError` for item vectors of a model without any.
 */
export async function exportRun(options: ExportRunOptions): Promise<ExportedRun> {
  const { run, out, items: which = 'all', to = ['serving'], onNote = () => undefined } = options;
  const formats = checkFormats(to);
  if (out !== null) await requireEmpty(out);
  await using opened = await openRun(run, options);
  const { model, data, step, config, checkpoint } = opened;
  const items = exportedItems(data, which);
  const { vectors = null } = options;
  // First: a model without any is refused before a folder appears, and the form hf merges low-rank updates into the model.
  const searched = vectors === null ? null : await searchVectors({ model, data, step, items });
  let exported: ExportedModel | null = null;
  let parity: Parity | null = null;
  if (out !== null && formats.has('serving'))
    exported = await exportModel(model, data, { config, step, out, items: which });
  else if (out !== null)
    parity = await createFolder(out, (folder) =>
      writeFormats({ model, data, step, items, folder, config, onNote, openRuntime: options.openRuntime }, formats),
    );
  if (vectors !== null && searched !== null) await writeVectorFile(searched, vectors);
  return { checkpoint, step, exported, parity };
}

async function writeFormats(context: OnnxContext, formats: ReadonlySet<ExportFormat>): Promise<Parity | null> {
  const { model, folder, config } = context;
  if (formats.has('safetensors')) await writeWeights(context);
  if (formats.has('npy') || formats.has('fbin')) await writeVectors(context, formats);
  if (formats.has('peft')) await writeAdapters(context);
  const parity = formats.has('onnx') ? await writeOnnx(context) : null;
  // the last: low-rank updates are merged into the model
  if (formats.has('hf')) await saveToFolders(model, encoderSources(weightsKeys(config.config.model)), folder);
  return parity;
}

/** Folders `text` and `image` in PEFT's layout, for the encoders that have low-rank updates. */
async function writeAdapters({ model: { adapters }, folder }: FormatContext): Promise<void> {
  if (adapters.size === 0)
    throw new ConfigError(
      'export --to peft: expected a model with model.encoder.lora or adapter but this has neither',
      {
        key: 'model.encoder.lora',
      },
    );
  await saveEncoderAdapters(adapters, folder);
}

/** Vectors for search indexes: `.npy`, and the ids in row order. */
async function writeVectorFile({ items, users }: SearchVectors, file: string): Promise<void> {
  const stem = file.replace(/\.npy$/, '');
  const write = async ({ ids, width, values }: IdVectors, path: string, idFile: string): Promise<void> => {
    await writeNpy(path, { dtype: 'float32', shape: [ids.length, width], data: values });
    await writeIdLines(idFile, ids);
  };
  await write(items, file, `${stem}.ids.txt`);
  if (users !== null) await write(users, `${stem}.users.npy`, `${stem}.users.ids.txt`);
}
