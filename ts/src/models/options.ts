/** Options given in part. */

/** Any part of T, to any depth; lists are given whole. */
export type Partially<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { readonly [K in keyof T]?: Partially<T[K]> }
    : T;

/** `base` with what `over` states; maps merge by key, everything else replaces. */
export function mergeOptions(base: unknown, over: unknown): unknown {
  if (over === undefined) return base;
  if (typeof base !== 'object' || base === null || Array.isArray(base) || typeof over !== 'object' || over === null)
    return over;
  const merged = new Map<string, unknown>(Object.entries(base));
  for (const [key, value] of Object.entries(over)) merged.set(key, mergeOptions(merged.get(key), value));
  return Object.fromEntries(merged);
}
