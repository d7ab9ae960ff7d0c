/** Errors that cross from a worker thread to its owner and stay what they are. */

import { ArgumentError, DataError, type DataErrorCode, GalagoError, ModelFileError } from '../../errors.js';

/** An error, as plain data. */
export interface ErrorAnswer {
  readonly name: string;
  readonly code: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** What a thread posts for an error. */
export function plainError(error: unknown): ErrorAnswer {
  if (error instanceof GalagoError) {
    return { name: error.name, code: error.code, message: error.message, fields: error.fields };
  }
  return { name: 'Error', code: '', message: error instanceof Error ? error.message : String(error), fields: {} };
}

/** The error again, of the same class. */
export function revivedError({ name, code, message, fields }: ErrorAnswer): Error {
  if (name === 'ArgumentError') return new ArgumentError(message, fields);
  if (name === 'DataError') return new DataError(code as DataErrorCode, message, fields);
  if (name === 'ModelFileError') return new ModelFileError(message, fields);
  return code === '' ? new Error(message) : new GalagoError(code, message, fields);
}
