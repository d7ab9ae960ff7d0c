/** Encoder weights of one run as the beginning of another: which tensors they are, what they belong to, and whether they fit. */
import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { featuresOf } from '../data/schema.js';
import { CheckpointMismatchError, ConfigError } from '../errors.js';
import { type Json, loadCheckpoint } from '../io/checkpoint.js';
import { tensorDifferences } from '../io/safetensors.js';
import type { RecommenderModel } from '../models/model.js';
import { assign, type Tensor } from '../tensor.js';
import { fromHost, storedDtype } from './state.js';

/** Parts of a model's content that are encoders; beside them stand tables of vectors and low-rank updates of one run. */
const ENCODER = /^content\.(text|image|query|fusion|document)\./;

/** Encoders of items and queries, by the names of the state. */
export function encoderTensors(model: RecommenderModel): Map<string, Tensor> {
  return new Map([...model.state()].filter(([name]) => ENCODER.test(name)));
}

/** What encoders read in these data: files and split, tokenizers, fields and their lengths, sizes of pictures. Checkpoints keep it. */
export function encoderInputs(data: Dataset): Record<string, string> {
  const { rule, parts, files } = data.splitManifest;
  const inputs: Record<string, string> = { split: rule, 'train part': parts.train };
  for (const [file, digest] of Object.entries(files)) inputs[`file ${file}`] = digest;
  for (const [source, pipeline] of Object.entries(data.text)) {
    if (pipeline === null) continue;
    inputs[`${source} text: tokenizer`] = `${pipeline.tokenizer.kind} ${pipeline.tokenizer.digest}`;
    inputs[`${source} text: vocabulary`] = String(pipeline.tokenizer.size);
    inputs[`${source} text: fields`] = pipeline.fields.map(({ name, maxLen }) => `${name} ${maxLen}`).join(', ');
    inputs[`${source} text: layout`] = JSON.stringify([pipeline.positions, pipeline.layout]);
  }
  for (const { name, size } of featuresOf(data.schema, 'image')) inputs[`picture ${name}: size`] = String(size);
  return inputs;
}

/** Where the encoders of a model came from. `digest`: SHA-256 over the tensor files of that checkpoint. */
export interface EncoderOrigin {
  readonly run: string;
  readonly checkpoint: string;
  readonly step: number;
  readonly digest: string;
}

/**
 * Writes the encoder weights of the newest checkpoint of `run` over those of `model`, and renews what the model copied of them. The run must
 * have seen the same train part through the same tokenizers, with encoders of the same form: else `CheckpointMismatchError`, with every
 * difference. Throws `ConfigError` for a model without encoders, `CheckpointNotFoundError`.
 */
export async function loadEncoders(model: RecommenderModel, data: Dataset, run: string): Promise<EncoderOrigin> {
  const encoders = encoderTensors(model);
  if (encoders.size === 0)
    throw new ConfigError('train.from: expected a model that reads content but this one has no encoders', {
      key: 'train.from',
    });
  const { name, manifest, tensors } = await loadCheckpoint({ dir: join(run, 'checkpoints') });
  const saved = new Map([...(tensors['dense'] ?? [])].filter(([tensor]) => ENCODER.test(tensor)));
  const wanted = new Map([...encoders].map(([key, { dtype, shape }]) => [key, { dtype: storedDtype(dtype), shape }]));
  const diff = [...differences(encoderInputs(data), inputsOf(manifest.state)), ...tensorDifferences(saved, wanted)];
  if (diff.length > 0) {
    const shown = diff.slice(0, 8).join('; ');
    throw new CheckpointMismatchError(
      `train: the encoders of ${run} (${name}) do not belong to this model and data: ${shown}${diff.length > 8 ? ` and ${diff.length - 8} more` : ''}`,
      { diff },
    );
  }
  const values = fromHost(saved);
  for (const [key, tensor] of encoders) assign(tensor, values.get(key)!.data);
  model.refresh();
  return { run, checkpoint: name, step: manifest.step, digest: manifest.digest };
}

function inputsOf(state: Json): Readonly<Record<string, unknown>> {
  const inputs = typeof state === 'object' && state !== null && 'inputs' in state ? state.inputs : null;
  return typeof inputs === 'object' && inputs !== null ? (inputs as Readonly<Record<string, unknown>>) : {};
}

function differences(
  expected: Readonly<Record<string, string>>,
  received: Readonly<Record<string, unknown>>,
): string[] {
  return [...new Set([...Object.keys(expected), ...Object.keys(received)])]
    .filter((key) => expected[key] !== received[key])
    .map((key) => `${key}: expected ${expected[key] ?? 'none'} but received ${String(received[key] ?? 'none')}`);
}
