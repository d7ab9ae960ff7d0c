/** Flat columns of Parquet page by page. Numbers stay in typed arrays from the page to the sink: no value becomes an object. */

import type { AsyncBuffer, ColumnMetaData, DecodedArray, ParquetParsers, SchemaTree } from 'hyparquet';
import { parquetHeader, readPage } from 'hyparquet/src/column.js';
import { convert, DEFAULT_PARSERS } from 'hyparquet/src/convert.js';
import { decompressPage, readDataPage, readDataPageV2 } from 'hyparquet/src/datapage.js';
import { readPlain } from 'hyparquet/src/plain.js';
import { compressors } from 'hyparquet-compressors';
import type { ColumnSink, Decoded } from './column_sink.js';

type Decoder = Parameters<typeof readPage>[2];
type PageHeader = ReturnType<typeof parquetHeader>;

interface Reader {
  view: DataView;
  offset: number;
}

type Numbers = BigInt64Array | Int32Array | Uint32Array | Float32Array | Float64Array;

/** A column chunk, and where it goes. */
export interface FlatChunk {
  /** The schema's root, and the column. */
  readonly schemaPath: readonly [SchemaTree, SchemaTree];
  readonly metadata: ColumnMetaData;
  readonly parsers: Partial<ParquetParsers>;
  readonly sink: ColumnSink;
  /** Rows `first .. first + rows` of the sink. */
  readonly first: number;
  readonly rows: number;
}

/** Decodes a column chunk into its sink and awaits `turn` after each page. Throws for pages that cannot be read or make another number of rows. */
export async function readFlatChunk(
  file: AsyncBuffer,
  { schemaPath, metadata, parsers, sink, first, rows }: FlatChunk,
  turn: () => Promise<void> | undefined,
): Promise<void> {
  const start = Number(metadata.dictionary_page_offset || metadata.data_page_offset);
  const bytes = await file.slice(start, start + Number(metadata.total_compressed_size));
  const reader: Reader = { view: new DataView(bytes), offset: 0 };
  const decoder: Decoder = {
    ...metadata,
    pathInSchema: metadata.path_in_schema,
    element: schemaPath[1].element,
    schemaPath: [...schemaPath],
    compressors,
    parsers: { ...DEFAULT_PARSERS, ...parsers },
  };
  const areNumbers = ['INT32', 'INT64', 'FLOAT', 'DOUBLE'].includes(decoder.type);
  let dictionary: DecodedArray | undefined;
  let filled = 0;
  while (filled < rows && reader.offset < bytes.byteLength - 1) {
    const header = parquetHeader(reader);
    if (header.type === 'DICTIONARY_PAGE') {
      const { data = [] } = readPage(reader, header, decoder, undefined, undefined, 0);
      dictionary = areNumbers ? signed(data, decoder) : convert(data, decoder);
    } else {
      const count = (header.data_page_header ?? header.data_page_header_v2)?.num_values ?? -1;
      if (!(count >= 0 && count <= rows - filled)) throw new RangeError(`expected ${rows} values, got others`);
      let values: Decoded;
      if (areNumbers) {
        const page = unpacked(reader, header, decoder);
        await turn();
        values = readNumbers(page, header, decoder, dictionary);
        await turn();
      } else values = readPage(reader, header, decoder, dictionary, undefined, 0).data ?? [];
      if (values.length !== count) throw new RangeError(`expected ${count} values in a page, got ${values.length}`);
      sink.write(first + filled, values);
      filled += count;
    }
    await turn();
  }
  if (filled !== rows) throw new RangeError(`expected ${rows} values, got ${filled}`);
}

/** The bytes of a page: of a page of the first version unpacked, the second version unpacks its values by itself. */
function unpacked(reader: Reader, header: PageHeader, { codec }: Decoder): Uint8Array {
  const { compressed_page_size: size, uncompressed_page_size: length } = header;
  const bytes = new Uint8Array(reader.view.buffer, reader.view.byteOffset + reader.offset, size);
  reader.offset += size;
  return header.data_page_header === undefined ? bytes : decompressPage(bytes, Number(length), codec, compressors);
}

/** The values of a page of numbers: a typed array, or an array with null where there are nulls. */
function readNumbers(
  page: Uint8Array,
  header: PageHeader,
  decoder: Decoder,
  dictionary: DecodedArray | undefined,
): Decoded {
  const { data_page_header: v1, data_page_header_v2: v2 } = header;
  const { dataPage, definitionLevels } =
    v1 === undefined ? readDataPageV2(page, header, decoder) : readFirstVersion(page, v1, decoder);
  const { encoding } = (v1 ?? v2)!;
  const values = encoding.endsWith('_DICTIONARY')
    ? lookedUp(dictionary, dataPage as ArrayLike<number>)
    : signed(dataPage, decoder);
  if (definitionLevels === undefined || definitionLevels.length === 0) return values;
  let at = 0;
  return definitionLevels.map((level) => (level === 1 ? values[at++] : null));
}

function readFirstVersion(
  page: Uint8Array,
  told: NonNullable<PageHeader['data_page_header']>,
  decoder: Decoder,
): ReturnType<typeof readDataPage> {
  const { element, type } = decoder;
  const end = element.repetition_type === 'OPTIONAL' ? endOfFullLevels(page, told.num_values) : null;
  if (end === null) return readDataPage(page, told, decoder);
  // No value is null: the rest of the page reads like one of a required column.
  if (told.encoding === 'PLAIN') {
    // From the start of a buffer, so that values are aligned.
    const view = new DataView(page.slice(end).buffer);
    const dataPage = readPlain({ view, offset: 0 }, type, told.num_values, undefined);
    return { definitionLevels: [], repetitionLevels: [], dataPage };
  }
  const [root, node] = decoder.schemaPath as [SchemaTree, SchemaTree];
  const required: SchemaTree = { ...node, element: { ...element, repetition_type: 'REQUIRED' } };
  return readDataPage(page.subarray(end), told, { ...decoder, schemaPath: [root, required] });
}

/** Where the definition levels of a page end, if they are one run which says that every value is there; else null. */
function endOfFullLevels(page: Uint8Array, count: number): number | null {
  if (page.length < 6) return null;
  const length = new DataView(page.buffer, page.byteOffset).getUint32(0, true);
  let [run, at] = [0, 4];
  for (let shift = 0; shift < 28; shift += 7) {
    const byte = page[at++]!;
    run |= (byte & 127) << shift;
    if (byte < 128) break;
  }
  return run % 2 === 0 && run >>> 1 >= count && page[at] === 1 && length < page.length ? 4 + length : null;
}

/** Unsigned integers of 32 bits are stored as signed ones; those of 64 bits the sink knows by itself. */
function signed(values: DecodedArray, { element }: Decoder): DecodedArray {
  const { converted_type: converted, logical_type: logical } = element;
  const isUnsigned =
    converted === 'UINT_32' || (logical?.type === 'INTEGER' && logical.bitWidth === 32 && !logical.isSigned);
  return isUnsigned && values instanceof Int32Array
    ? new Uint32Array(values.buffer, values.byteOffset, values.length)
    : values;
}

/** The values of a dictionary by their codes, copied as bits. */
function lookedUp(dictionary: DecodedArray | undefined, codes: ArrayLike<number>): Numbers {
  if (!isNumbers(dictionary)) throw new RangeError('expected a dictionary of numbers');
  const words = dictionary.BYTES_PER_ELEMENT / 4;
  const from = new Int32Array(dictionary.buffer, dictionary.byteOffset, words * dictionary.length);
  const to = new Int32Array(words * codes.length);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]!;
    if (!(code < dictionary.length)) throw new RangeError(`expected one of ${dictionary.length} codes, got ${code}`);
    if (words === 1) to[i] = from[code]!;
    else {
      to[2 * i] = from[2 * code]!;
      to[2 * i + 1] = from[2 * code + 1]!;
    }
  }
  return new (dictionary.constructor as new (buffer: ArrayBuffer) => Numbers)(to.buffer);
}

function isNumbers(values: DecodedArray | undefined): values is Numbers {
  return ArrayBuffer.isView(values) && !(values instanceof Uint8Array);
}
