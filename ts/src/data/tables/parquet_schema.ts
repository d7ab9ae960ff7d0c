/** Which columns of a Parquet file can be read, and as what. */
import type { FileMetaData, SchemaTree } from 'hyparquet';
import { parquetSchema } from 'hyparquet';
import type { ColumnKind } from './column_builders.js';

/** Unit of a time column; the integers of the file are kept as they are. */
export type TimeUnit = 'days' | 'ms' | 'us' | 'ns';

export interface ParquetColumn {
  readonly name: string;
  /** Null for what is refused: structs, maps, decimals, binary. */
  readonly kind: ColumnKind | null;
  /** The file's own type, for messages and for the comparison of files. */
  readonly type: string;
  /** Of dates and timestamps. */
  readonly unit: TimeUnit | null;
  /** A list of scalars. */
  readonly list: boolean;
}

/** The top-level columns in file order. */
export function parquetColumns(metadata: FileMetaData): ParquetColumn[] {
  return parquetSchema(metadata).children.map(column);
}

function column(node: SchemaTree): ParquetColumn {
  const { name, repetition_type: repetition } = node.element;
  if (node.children.length === 0) {
    const { kind, type, unit } = scalar(node);
    return repetition === 'REPEATED'
      ? { name, kind: listKind(kind), type: `list of ${type}`, unit: null, list: true }
      : { name, kind, type, unit, list: false };
  }
  const refused = (type: string): ParquetColumn => ({ name, kind: null, type, unit: null, list: false });
  const { converted_type: converted, logical_type: logical } = node.element;
  if (converted === 'MAP' || converted === 'MAP_KEY_VALUE' || logical?.type === 'MAP') return refused('map');
  if (converted !== 'LIST') return refused(logical?.type === 'VARIANT' ? 'variant' : 'struct');
  // group (LIST) { repeated group list { element } }, or in old files { repeated element }.
  const [middle] = node.children;
  if (node.children.length !== 1 || middle?.element.repetition_type !== 'REPEATED') return refused('struct');
  const leaf = middle.children.length === 0 ? middle : middle.children[0]!;
  if (middle.children.length > 1 || leaf.children.length > 0) return refused('list of structs or lists');
  const { kind, type } = scalar(leaf);
  return { name, kind: listKind(kind), type: `list of ${type}`, unit: null, list: true };
}

function listKind(kind: ColumnKind | null): ColumnKind | null {
  return kind === null ? null : kind === 'float' ? 'float_seq' : 'token_seq';
}

type Scalar = Pick<ParquetColumn, 'kind' | 'type' | 'unit'>;

function scalar({ element }: SchemaTree): Scalar {
  const { type, converted_type: converted, logical_type: logical } = element;
  const is = (kind: ColumnKind | null, name: string, unit: TimeUnit | null = null): Scalar => ({
    kind,
    type: name,
    unit,
  });
  if (converted === 'DECIMAL' || logical?.type === 'DECIMAL') return is(null, 'decimal');
  if (logical?.type === 'TIMESTAMP') {
    const unit = ({ MILLIS: 'ms', MICROS: 'us', NANOS: 'ns' } as const)[logical.unit];
    return is('int64', `timestamp (${unit})`, unit);
  }
  if (converted === 'TIMESTAMP_MILLIS') return is('int64', 'timestamp (ms)', 'ms');
  if (converted === 'TIMESTAMP_MICROS') return is('int64', 'timestamp (us)', 'us');
  if (type === 'INT96') return is('int64', 'timestamp (ns)', 'ns');
  if (converted === 'DATE' || logical?.type === 'DATE') return is('int64', 'date', 'days');
  switch (type) {
    case 'BOOLEAN':
      return is('int64', 'boolean');
    case 'INT32':
      return is('int64', converted?.startsWith('UINT') ? 'uint32' : 'int32');
    case 'INT64':
      return converted === 'UINT_64' || (logical?.type === 'INTEGER' && !logical.isSigned)
        ? is('uint64', 'uint64')
        : is('int64', 'int64');
    case 'FLOAT':
    case 'DOUBLE':
      return is('float', type === 'FLOAT' ? 'float32' : 'float64');
    case 'BYTE_ARRAY':
      if (converted === undefined && (logical === undefined || logical.type === 'STRING')) return is('token', 'string');
      return converted === 'UTF8' || converted === 'ENUM' || converted === 'JSON' || logical?.type === 'ENUM'
        ? is('token', 'string')
        : is(null, (logical?.type ?? converted ?? 'binary').toLowerCase());
    case 'FIXED_LEN_BYTE_ARRAY':
      if (logical?.type === 'UUID') return is('token', 'uuid');
      return logical?.type === 'FLOAT16' ? is('float', 'float16') : is(null, 'fixed-length binary');
    default:
      return is(null, type ?? 'unknown');
  }
}
