import { expect, it } from 'vitest';
import { defaultEm3Options } from '../../src/models/em3.js';
import { em3Options, rankerOptions, trainSettings } from '../../src/train/build_model.js';
import { resolveConfig } from '../../src/train/config.js';
import { defaultSettings } from '../../src/train/train_settings.js';

it('em3() and Trainer start from the defaults of the configuration', () => {
  const { config } = resolveConfig({ object: { data: { path: 'anywhere' } } });
  expect(defaultEm3Options).toEqual(em3Options(config));
  expect(defaultSettings).toEqual(trainSettings(config));
});

it('passes every key of the rankers on', () => {
  const { config } = resolveConfig({
    object: {
      data: { path: 'anywhere' },
      model: {
        rankmixer: { tokens: 4, width: 16, layers: 1, expansion: 3, sequence: 'longer', groups: [['a'], ['b', 'c']] },
        dlrm: { bottom_mlp: [8], top_mlp: [9, 7], interaction: 'concat', width: 5 },
        longer: { width: 24, heads: 2, merge: 3, latest: 4, layers: 1, ffn: 5, positions: 6, gap_dim: 0 },
        sim: { search: 'hard', hard_feature: 'kinds', top_k: 3, time_gaps: false },
        mmoe: { experts: 2, expert_mlp: [6], tower_mlp: [], task_weight: 0.5 },
      },
    },
  });
  const given = rankerOptions(config.model);
  expect(given.rankMixer).toEqual(config.model.rankmixer);
  expect(given.dlrm).toEqual({ bottomMlp: [8], topMlp: [9, 7], interaction: 'concat', width: 5 });
  const { gap_dim: gapDim, ...longer } = config.model.longer;
  expect(given.longer).toEqual({ ...longer, gapDim });
  expect(given.sim).toEqual({ search: 'hard', hardFeature: 'kinds', topK: 3, timeGaps: false });
  expect(given.mmoe).toEqual({ experts: 2, expertMlp: [6], towerMlp: [], taskWeight: 0.5 });
});
