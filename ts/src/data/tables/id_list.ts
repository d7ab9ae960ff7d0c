/** Lists of ids: text files with one id per line. */
import { DataError } from '../../errors.js';

/** The lines of a list: UTF-8 with or without a byte-order mark, LF or CRLF, empty ones included. DataError for bytes that are no UTF-8. */
export function idLines(bytes: Uint8Array, file: string): string[] {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes).split(/\r?\n/);
  } catch (error) {
    throw new DataError(
      'DATA_ROW',
      `${file}: expected ids in UTF-8, one per line, but it holds bytes that are not`,
      { file, reason: 'utf8' },
      { cause: error },
    );
  }
}
