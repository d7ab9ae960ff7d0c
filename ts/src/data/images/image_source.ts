/**
 * Where the bytes of pictures come from: a folder of files, tar shards or an LMDB. All answer the same two questions, so that what
 * decodes them does not know which one it reads.
 */
export interface ImageSource extends AsyncDisposable {
  readonly kind: 'folder' | 'tar' | 'lmdb';
  /** What was found, for people: `12 tar shards, 300000 pictures`. */
  readonly summary: string;
  /**
   * The name that each id's picture is read by; null where there is none.
   * @throws DataError (DATA_IMAGE) when an id has two.
   */
  find(ids: readonly string[]): Promise<readonly (string | null)[]>;
  /**
   * All bytes of the picture that is read by `name`.
   * @throws ImageError: `path`, `missing_file`, or `memory_budget` when it is larger than `maxBytes`; DataError (DATA_IMAGE) when the
   * source is not what it was when it was opened; StorageError when the file system fails otherwise.
   */
  read(name: string, maxBytes: number): Promise<Uint8Array>;
}
