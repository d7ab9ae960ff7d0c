/**
 * Every error that galago throws on purpose. Each has a stable `code`, one sentence (who, what was expected, what came) and
 * fields for machines. `exitCode` is what the CLI exits with (reliability.md, section 1).
 */

type Fields = Readonly<Record<string, unknown>>;

/** Base class: `code` is stable across releases, `message` is one sentence, `fields` are for machines. */
export class GalagoError extends Error {
  /** Process exit code of the CLI for this kind of error. */
  readonly exitCode: number = 1;
  constructor(
    readonly code: string,
    message: string,
    readonly fields: Fields = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A configuration key or value is wrong. Fields: key, file, line, nearest. */
export class ConfigError extends GalagoError {
  override readonly exitCode = 78;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CONFIG', message, fields, options);
  }
}

export type DataErrorCode = 'DATA_ROW' | 'DATA_SCHEMA' | 'DATA_IMAGE' | 'DATA_LEAK';

/** Input data break their contract. Fields: file, line, byte, column, reason. */
export class DataError extends GalagoError {
  override readonly exitCode = 65;
  constructor(code: DataErrorCode, message: string, fields: Fields = {}, options?: ErrorOptions) {
    super(code, message, fields, options);
  }
}

/** An id is not a 64-bit integer, a safe number or a string. A `TypeError` too. Fields: value, index, column. */
export class IdError extends TypeError {
  readonly code = 'ID';
  readonly exitCode = 65;
  constructor(
    message: string,
    readonly fields: Fields = {},
  ) {
    super(message);
    this.name = 'IdError';
  }
}

/** A safetensors or model file breaks a rule of the reader. Fields: file, rule (1 to 19), tensor. */
export class ModelFileError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('MODEL_FILE', message, fields, options);
  }
}

/** A checkpoint file is truncated or altered. Fields: file, block, offset. */
export class CheckpointCorruptError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CHECKPOINT_CORRUPT', message, fields, options);
  }
}

/** A checkpoint belongs to another model, config or data. Fields: diff. */
export class CheckpointMismatchError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CHECKPOINT_MISMATCH', message, fields, options);
  }
}

/** Checkpoints exist and every one of them is bad. Fields: list. */
export class CheckpointAllBadError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CHECKPOINT_ALL_BAD', message, fields, options);
  }
}

/** The files of an export do not belong together, or one was altered. Fields: folder, file, diff. */
export class ExportMismatchError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('EXPORT_MISMATCH', message, fields, options);
  }
}

/** A model computes something that no ONNX graph of ours does, or its graph gives other scores. Fields: op, reason; or graph, difference, row. */
export class OnnxExportError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('ONNX_EXPORT', message, fields, options);
  }
}

/** No checkpoint where one was asked for. Fields: directory. */
export class CheckpointNotFoundError extends GalagoError {
  override readonly exitCode = 78;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CHECKPOINT_NONE', message, fields, options);
  }
}

/** Another process writes to this run folder. Fields: pid, since. */
export class CheckpointBusyError extends GalagoError {
  override readonly exitCode = 75;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('CHECKPOINT_BUSY', message, fields, options);
  }
}

/** The file system refused. `code` is the system's (`ENOSPC`, `EIO`, ...). Fields: path, call. */
export class StorageError extends GalagoError {
  override readonly exitCode = 74;
}

/** A device or the host ran out of memory. Fields: requested, free, total, live, reserved, peak, largest. */
export class OutOfMemoryError extends GalagoError {
  override readonly exitCode = 78;
  constructor(code: 'DEVICE_MEMORY' | 'HOST_MEMORY', message: string, fields: Fields = {}, options?: ErrorOptions) {
    super(code, message, fields, options);
  }
}

/** Rows were dropped from a memory bank that must not lose any. Fields: dropped, rows, slots. */
export class MemoryBankFullError extends GalagoError {
  override readonly exitCode = 78;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('BANK_FULL', message, fields, options);
  }
}

/** A loss or gradient was not finite too often. Fields: step, tensor. */
export class NonFiniteError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('NONFINITE', message, fields, options);
  }
}

/** A kernel failed and poisoned its device, or does not end: every later wait rejects with this. Fields: kernel, step; device, queued, seconds. */
export class DeviceLostError extends GalagoError {
  override readonly exitCode = 75;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('DEVICE_LOST', message, fields, options);
  }
}

/** The device asked for is not there. Fields: device, reason. */
export class DeviceUnavailableError extends GalagoError {
  override readonly exitCode = 78;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('DEVICE_UNAVAILABLE', message, fields, options);
  }
}

/** A kernel met an index outside its table; the wait that follows rejects, the device stays usable. Fields: op, argument, position, value, bound. */
export class IndexError extends GalagoError {
  override readonly exitCode = 65;
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('INDEX', message, fields, options);
  }
}

/** More work is queued than a device accepts: await something. Fields: device, queued. */
export class QueueFullError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('QUEUE_FULL', message, fields, options);
  }
}

/** A tensor argument has the wrong shape. Fields: op, argument. */
export class ShapeError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('SHAPE', message, fields, options);
  }
}

/** A tensor argument has the wrong dtype or device. Fields: op, argument. */
export class DtypeError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('DTYPE', message, fields, options);
  }
}

/** A tensor was used after its release. Fields: op, argument. */
export class DisposedError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('DISPOSED', message, fields, options);
  }
}

/** An option or argument that is no tensor is wrong. Fields: op, argument. */
export class ArgumentError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('ARGUMENT', message, fields, options);
  }
}

/** A gradient was asked for where there is none. Fields: op. */
export class AutogradError extends GalagoError {
  constructor(message: string, fields: Fields = {}, options?: ErrorOptions) {
    super('AUTOGRAD', message, fields, options);
  }
}
