/** The keys of another program's configuration, with a list of those that ours does not follow. */
import { type ConfigMap, type ConfigValue, isConfigMap } from './config_source.js';

/** A key of the other configuration that ours does not follow, its value, and what that means; '' for a key that nothing here knows. */
export interface Unmatched {
  readonly key: string;
  readonly value: ConfigValue;
  readonly reason: string;
}

/** Reads keys one after the other; what nobody asked for is left over. */
export class Keys {
  readonly unmatched: Unmatched[] = [];
  readonly #asked = new Set<string>();

  constructor(
    private readonly values: ConfigMap,
    private readonly prefix = '',
  ) {}

  miss(key: string, value: ConfigValue, reason: string): void {
    this.unmatched.push({ key: this.prefix + key, value, reason });
  }

  /** The value of a key; of a list of settings to try, the first, and the list is told. */
  take(key: string): ConfigValue {
    this.#asked.add(key);
    return this.values[key] ?? null;
  }

  private one(key: string): ConfigValue {
    const value = this.take(key);
    if (!Array.isArray(value)) return value;
    if (value.length > 1) this.miss(key, value, 'a list of settings to try: the first is taken');
    return value[0] ?? null;
  }

  number(key: string): number | undefined {
    const value = this.one(key);
    if (value === null || typeof value === 'number') return value ?? undefined;
    this.miss(key, value, 'expected a number');
    return undefined;
  }

  /** A name; `user_id:token` loses its type. */
  text(key: string): string | undefined {
    const value = this.one(key);
    if (value === null || typeof value === 'string') return value?.replace(/:(token|float)(_seq)?$/, '') ?? undefined;
    this.miss(key, value, 'expected a text');
    return undefined;
  }

  list(key: string): ConfigValue[] {
    const value = this.take(key);
    return value === null ? [] : Array.isArray(value) ? value : [value];
  }

  /** A name or number of a list as text; anything else is told and null. */
  word(key: string, value: ConfigValue): string | null {
    if (typeof value === 'string' || typeof value === 'number') return String(value);
    this.miss(key, value, 'expected a text');
    return null;
  }

  words(key: string, values: readonly ConfigValue[] = this.list(key)): string[] {
    return values.flatMap((value) => this.word(key, value) ?? []);
  }

  /** Numbers of a list; undefined for none. */
  numbers(key: string): number[] | undefined {
    const numbers = this.list(key).filter((value) => typeof value === 'number');
    return numbers.length === 0 ? undefined : numbers;
  }

  map(key: string): ConfigMap | null {
    const value = this.take(key);
    if (value === null || isConfigMap(value)) return value;
    this.miss(key, value, 'expected a map');
    return null;
  }

  /** Keys that mean nothing here: folders, devices, logs. */
  ignore(...keys: string[]): void {
    for (const key of keys) this.#asked.add(key);
  }

  /** Tells a key that is set to something else than nothing. */
  refuse(key: string, reason: string): void {
    const value = this.take(key);
    const nothing = value === null || value === 0 || value === false || (Array.isArray(value) && value.length === 0);
    if (!nothing) this.miss(key, value, reason);
  }

  /** Tells a key that is set to something else than what ours does anyway, in whatever case. */
  expect(key: string, ours: string, reason: string): void {
    const values = this.list(key);
    if (!values.every((value) => typeof value === 'string' && value.toLowerCase() === ours))
      this.miss(key, this.take(key), reason);
  }

  rest(): readonly Unmatched[] {
    for (const [key, value] of Object.entries(this.values))
      if (!this.#asked.has(key) && value !== null) this.miss(key, value, '');
    return this.unmatched;
  }
}
