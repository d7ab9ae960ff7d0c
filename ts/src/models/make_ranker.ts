import { ArgumentError } from '../errors.js';
import type { Initializer } from '../nn/module.js';
import { DcnV2 } from './dcnv2.js';
import { Din } from './din.js';
import { Dlrm } from './dlrm.js';
import { Dnn } from './dnn.js';
import { Fm } from './fm.js';
import { Longer } from './longer.js';
import { Mmoe } from './mmoe.js';
import { RankMixer } from './rank_mixer.js';
import type { Ranker, RankerOptions, RankerSpec } from './ranker.js';
import { Sim } from './sim.js';

const rankers = {
  fm: Fm,
  dnn: Dnn,
  dcnv2: DcnV2,
  din: Din,
  rankmixer: RankMixer,
  dlrm: Dlrm,
  longer: Longer,
  sim: Sim,
  mmoe: Mmoe,
} as const;

export type RankerName = keyof typeof rankers;

/** The ranker of that name for inputs of these sizes. */
export function makeRanker(name: RankerName, init: Initializer, spec: RankerSpec, options: RankerOptions): Ranker {
  if (!Object.hasOwn(rankers, name))
    throw new ArgumentError(
      `makeRanker: expected one of ${Object.keys(rankers).join(', ')} but received ${String(name)}`,
      { argument: 'name' },
    );
  return new rankers[name](init, spec, options);
}
