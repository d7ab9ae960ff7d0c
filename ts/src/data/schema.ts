/** The feature schema after loading: what a model needs to build its tables. The YAML side lives in the configuration. */

import { ArgumentError } from '../errors.js';

/** Which table a feature belongs to: the interactions, or the items, users or queries joined to them by row. */
export type FeatureSource = 'inter' | 'item' | 'user' | 'query';

interface FeatureBase {
  readonly name: string;
  readonly source: FeatureSource;
}

/** One id per row. `vocabularySize` counts rows of the embedding table; row 0 stands for ids that train does not know. */
export interface CategoricalFeature extends FeatureBase {
  readonly type: 'categorical';
  readonly vocabularySize: number;
  /** Width of its embedding; null leaves it to the model's default. */
  readonly embeddingDim: number | null;
  /** Name of the categorical feature whose table it uses. */
  readonly shareEmbedding: string | null;
}

/** One number per row: (f(x) - mean) / deviation, f = log1p or x; a missing number is the train mean. Mean and deviation are those of train (0 and 1 unless standardised). */
export interface NumericFeature extends FeatureBase {
  readonly type: 'numeric';
  readonly transform: 'none' | 'log1p' | 'standardize';
  readonly mean: number;
  readonly deviation: number;
}

/** Several ids per row, `maxLen` of them kept. */
export interface SequenceFeature extends FeatureBase {
  readonly type: 'sequence';
  /** The categorical feature whose earlier ids these are, oldest first: a history as the data give it. Absent: words of no order. */
  readonly of?: string;
  readonly vocabularySize: number;
  readonly embeddingDim: number | null;
  readonly shareEmbedding: string | null;
  readonly maxLen: number;
  /** Which end of a longer list is kept; absent: the first. */
  readonly keep?: 'last';
}

/** Values of the item feature `of` over the user's earlier positives, oldest first, the last `maxLen` kept. */
export interface HistoryFeature extends FeatureBase {
  readonly type: 'history';
  readonly of: string;
  readonly vocabularySize: number;
  readonly embeddingDim: number | null;
  readonly shareEmbedding: string | null;
  readonly maxLen: number;
}

/** Tokens of one or more text fields, each cut by itself, joined by separators. `maxTokens`: longest sequence, special tokens included. */
export interface TextFeature extends FeatureBase {
  readonly type: 'text';
  readonly fields: readonly { readonly name: string; readonly maxLen: number }[];
  /** Number of token ids. */
  readonly vocabularySize: number;
  readonly maxTokens: number;
  /** Rows that a position embedding needs. */
  readonly positions: number;
  /** Number of token types (which field a token came from). */
  readonly types: number;
}

/** One picture, uint8 (size, size, 3). */
export interface ImageFeature extends FeatureBase {
  readonly type: 'image';
  readonly size: number;
}

/** One given float32 vector per row. `freeze`: it is not trained. */
export interface EmbeddingFeature extends FeatureBase {
  readonly type: 'embedding';
  readonly dim: number;
  readonly freeze: boolean;
}

/** Kept for reports, never shown to a model. */
export interface MetaFeature extends FeatureBase {
  readonly type: 'meta';
}

export type Feature =
  | CategoricalFeature
  | NumericFeature
  | SequenceFeature
  | HistoryFeature
  | TextFeature
  | ImageFeature
  | EmbeddingFeature
  | MetaFeature;

export type FeatureType = Feature['type'];

/** Features in the order of the configuration, sizes of the tables behind them, and the names of the labels. */
export interface Schema {
  readonly features: readonly Feature[];
  /** Names of the id features of users and items; null where the id is no feature (it still groups and joins). */
  readonly userId: string | null;
  readonly itemId: string | null;
  /** The first label is the main one: it decides what a positive is. */
  readonly labels: readonly string[];
  readonly users: number;
  /** Rows of the item table, cold items included. */
  readonly items: number;
  /** Rows of the query table; 0 without queries. */
  readonly queries: number;
}

/** All features of one type, in order. */
export function featuresOf<T extends FeatureType>(schema: Schema, type: T): Extract<Feature, { type: T }>[] {
  return schema.features.filter((feature): feature is Extract<Feature, { type: T }> => feature.type === type);
}

/** The feature of that name; throws ArgumentError with the names there are. */
export function featureNamed(schema: Schema, name: string): Feature {
  const found = schema.features.find((feature) => feature.name === name);
  if (found === undefined) {
    const names = schema.features.map((feature) => feature.name).join(', ');
    throw new ArgumentError(`schema: expected one of the features ${names} but received ${name}`, { argument: name });
  }
  return found;
}
