/**
 * Records of a CSV file (RFC 4180): fields in `"` may hold commas, line ends and doubled quotes. A row without a quote is cut at its
 * commas; what has quotes goes to csv-parse. A record that is broken costs its first line, reading goes on with the next one.
 */
import { parse } from 'csv-parse/sync';
import { type Line, type LineFault, readLines } from './lines.js';

export interface CsvRecord {
  /** Null where there is a fault. */
  readonly fields: readonly string[] | null;
  /** Of the record's first line. */
  readonly line: number;
  readonly byte: number;
  readonly fault: { readonly reason: LineFault | 'open_quote' | 'quote'; readonly message: string } | null;
}

export interface CsvOptions {
  readonly maxRowBytes?: number | undefined;
  readonly chunkBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A record before its fields are cut out. */
interface RawRecord {
  readonly first: Line;
  readonly text: string;
  readonly fault: CsvRecord['fault'];
}

/** The records in batches of about one chunk; an empty line is a record with one empty field. Faults are left to the caller. */
export async function* readCsvRecords(path: string, options: CsvOptions = {}): AsyncGenerator<CsvRecord[]> {
  const splitter = new RecordSplitter(options.maxRowBytes ?? 1 << 20);
  for await (const lines of readLines(path, options)) {
    for (const line of lines) splitter.add(line);
    yield cut(splitter.take());
  }
  splitter.end();
  const rest = splitter.take();
  if (rest.length > 0) yield cut(rest);
}

/** Joins lines to records: a record ends where its quotes are even. */
class RecordSplitter {
  private records: RawRecord[] = [];
  private open: Line[] = [];
  private openLength = 0;
  private odd = false;

  constructor(private readonly maxRowBytes: number) {}

  add(line: Line): void {
    if (line.fault !== null) {
      this.close();
      const limit = line.fault === 'giant_row' ? ` of ${this.maxRowBytes} bytes` : '';
      this.records.push({
        first: line,
        text: '',
        fault: { reason: line.fault, message: MESSAGES[line.fault] + limit },
      });
      return;
    }
    const quotes = countQuotes(line.text);
    if (this.open.length === 0 && quotes === 0) {
      this.records.push({ first: line, text: line.text, fault: null });
      return;
    }
    this.open.push(line);
    this.openLength += line.text.length + 1;
    if (quotes % 2 === 1) this.odd = !this.odd;
    if (!this.odd) {
      const text = joined(this.open);
      const [first] = this.open;
      const lines = this.open;
      this.reset();
      if (lines.length > 1 && fieldsOf([text]) === null) this.abandon(lines, 'quote');
      else this.records.push({ first: first!, text, fault: null });
    } else if (this.openLength > this.maxRowBytes) this.close();
  }

  /** The open record cannot end: its first line is bad, the others are read again. */
  private close(): void {
    while (this.open.length > 0) {
      const lines = this.open;
      this.reset();
      this.abandon(lines, 'open_quote');
    }
  }

  private abandon([first, ...rest]: Line[], reason: 'open_quote' | 'quote'): void {
    this.records.push({ first: first!, text: '', fault: { reason, message: MESSAGES[reason] } });
    for (const line of rest) this.add(line);
  }

  end(): void {
    this.close();
  }

  take(): RawRecord[] {
    const { records } = this;
    this.records = [];
    return records;
  }

  private reset(): void {
    this.open = [];
    this.openLength = 0;
    this.odd = false;
  }
}

const MESSAGES: Readonly<Record<LineFault | 'open_quote' | 'quote', string>> = {
  utf8: 'expected UTF-8, got a byte that is not',
  nul: 'expected text, got a NUL byte',
  giant_row: 'row is longer than the limit',
  open_quote: 'expected the quoted field to end within the row limit',
  quote: 'expected quotes around a whole field, doubled inside it (RFC 4180)',
};

const QUOTE = '"';

function countQuotes(text: string): number {
  let count = 0;
  for (let at = text.indexOf(QUOTE); at >= 0; at = text.indexOf(QUOTE, at + 1)) count++;
  return count;
}

/** A record of several lines, with the line ends that stand in its fields. */
function joined(lines: readonly Line[]): string {
  return lines.map(({ text, crlf }, i) => (i + 1 === lines.length ? text : text + (crlf ? '\r\n' : '\n'))).join('');
}

/** Fields of records that each have whole quotes; null when one of them is broken. */
function fieldsOf(texts: readonly string[]): string[][] | null {
  try {
    const rows: string[][] = parse(texts.join('\n'), { record_delimiter: '\n', relax_column_count: true });
    return rows.length === texts.length ? rows : null;
  } catch {
    return null;
  }
}

function cut(raw: readonly RawRecord[]): CsvRecord[] {
  const quoted = raw.filter(({ text, fault }) => fault === null && text.includes(QUOTE)).map(({ text }) => text);
  const parsed = quoted.length === 0 ? [] : fieldsOf(quoted);
  let next = 0;
  return raw.map(({ first, text, fault }): CsvRecord => {
    const place = { line: first.number, byte: first.byte };
    if (fault !== null) return { fields: null, ...place, fault };
    if (!text.includes(QUOTE)) return { fields: text.split(','), ...place, fault: null };
    const fields = parsed === null ? (fieldsOf([text])?.[0] ?? null) : parsed[next++]!;
    return { fields, ...place, fault: fields === null ? { reason: 'quote', message: MESSAGES.quote } : null };
  });
}
