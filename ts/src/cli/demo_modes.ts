/** What the demo trains: the modes of models.md, section 9, with the reference values and bands of section 12. */
import type { ConfigInput } from '../train/config.js';

/** Means of the reference runs on test of the generated shop. */
export interface Reference {
  readonly knownAuc: number;
  readonly fresh: { readonly AUC: number; readonly gAUC: number; readonly QAUC: number };
}

export interface DemoMode {
  /** Name of the run folder. */
  readonly key: string;
  /** Name in the table. */
  readonly name: string;
  readonly config: ConfigInput;
  /** Training on the generated shop, where it differs from its defaults. */
  readonly onShop?: ConfigInput['train'];
  /** Null where section 12 gives none. */
  readonly reference: Reference | null;
}

/** Largest distance of a mean over 3 seeds from its reference. */
export const band = 0.02;
/** A run above the best possible AUC by more than this has seen what it must not see. */
export const leakMargin = 0.005;

const reference = (knownAuc: number, AUC: number, gAUC: number, QAUC: number): Reference => ({
  knownAuc,
  fresh: { AUC, gAUC, QAUC },
});

export const idOnly: DemoMode = {
  key: 'id_only',
  name: 'ids only',
  config: { model: { training: 'id_only' } },
  reference: reference(0.659, 0.524, 0.508, 0.5),
};
export const frozen: DemoMode = {
  key: 'frozen',
  name: 'content as features (frozen)',
  config: { model: { training: 'frozen' } },
  reference: reference(0.8, 0.719, 0.725, 0.725),
};
export const endToEnd: DemoMode = {
  key: 'end_to_end',
  name: 'raw content, end to end',
  config: { model: { training: 'end_to_end' } },
  reference: reference(0.815, 0.801, 0.807, 0.834),
};

/** The memory bank gives the history, and half of the documents of each step; settings of examples/lemur-search.yaml. */
export const lemur: DemoMode = {
  key: 'lemur',
  name: 'LEMUR, p = q = 50',
  config: {
    model: {
      name: 'lemur',
      training: 'end_to_end',
      bank: { p: 50, q: 50 },
      sequences: { short: 20, long: 0, to_ranker: 'short' },
      decoder: { layers: 1 },
    },
  },
  onShop: { learning_rate: { dense: 2e-3, sparse: 2e-3, encoder: 1e-3, lora: 2e-3 }, encoder_warmup_steps: 564 },
  reference: null,
};

export const shortModes: readonly DemoMode[] = [idOnly, frozen, endToEnd, lemur];

/** Every mode and modality. */
export const allModes: readonly DemoMode[] = [
  idOnly,
  {
    key: 'end_to_end-text',
    name: 'end to end, text only',
    config: { model: { training: 'end_to_end', modalities: ['text'] }, train: { epochs: 6 } },
    reference: reference(0.649, 0.639, 0.647, 0.735),
  },
  {
    key: 'end_to_end-picture',
    name: 'end to end, picture only',
    config: { model: { training: 'end_to_end', modalities: ['image'] }, train: { epochs: 6 } },
    reference: reference(0.82, 0.769, 0.769, 0.754),
  },
  frozen,
  {
    key: 'two_stage',
    name: 'two stages',
    config: { model: { training: 'two_stage', two_stage_epochs: 4 } },
    reference: reference(0.691, 0.648, 0.654, 0.725),
  },
  {
    key: 'stop_gradient',
    name: 'stop-gradient',
    config: { model: { training: 'stop_gradient' } },
    reference: reference(0.659, 0.647, 0.66, 0.758),
  },
  {
    key: 'end_to_end-no_contrast',
    name: 'end to end, lambda 0',
    config: { model: { training: 'end_to_end', sqdc: { weight: 0 } } },
    reference: reference(0.815, 0.755, 0.756, 0.728),
  },
  endToEnd,
  lemur,
];
