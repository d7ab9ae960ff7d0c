/** Ownership by scope: what a scope creates is released at its end, unless returned or kept. */
import { ArgumentError } from './errors.js';

interface Owned {
  kept: boolean;
  readonly disposed: boolean;
  dispose(): void;
}

/** Open scopes, innermost last. Tensors add themselves. */
export const scopes: Owned[][] = [];

function collect(value: unknown, found: Set<unknown>): void {
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value) || found.has(value)) return;
  found.add(value);
  if ('disposed' in value && 'kept' in value) return;
  if (Array.isArray(value)) for (const element of value) collect(element, found);
  else if (value instanceof Map) for (const element of value.values()) collect(element, found);
  else if (Object.getPrototypeOf(value) === Object.prototype)
    for (const element of Object.values(value)) collect(element, found);
}

/**
 * Runs `run` and releases every tensor that it created, except those it returns (alone, in arrays, maps or plain objects), which
 * pass to the enclosing scope, and those it kept. `run` must be synchronous: calling an op only queues it, so nothing waits.
 */
export function tidy<T>(run: () => T): T {
  const scope: Owned[] = [];
  scopes.push(scope);
  let result: T;
  try {
    result = run();
    if (result instanceof Promise)
      throw new ArgumentError('tidy: expected a synchronous function but received a promise; await outside of tidy', {
        op: 'tidy',
      });
  } catch (error) {
    scopes.pop();
    for (const owned of scope) if (!owned.kept) owned.dispose();
    throw error;
  }
  scopes.pop();
  const returned = new Set<unknown>();
  collect(result, returned);
  const parent = scopes.at(-1);
  for (const owned of scope) {
    if (owned.kept || owned.disposed) continue;
    if (returned.has(owned)) parent?.push(owned);
    else owned.dispose();
  }
  return result;
}

/** Takes `x` out of its scope: it lives until disposed. Returns it. */
export function keep<T extends { kept: boolean }>(x: T): T {
  x.kept = true;
  return x;
}
