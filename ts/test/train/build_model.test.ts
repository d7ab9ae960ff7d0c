import { expect, it } from 'vitest';
import { defaultEm3Options } from '../../src/models/em3.js';
import { em3Options, trainSettings } from '../../src/train/build_model.js';
import { resolveConfig } from '../../src/train/config.js';
import { defaultSettings } from '../../src/train/trainer.js';

it('em3() and Trainer start from the defaults of the configuration', () => {
  const { config } = resolveConfig({ object: { data: { path: 'anywhere' } } });
  expect(defaultEm3Options).toEqual(em3Options(config));
  expect(defaultSettings).toEqual(trainSettings(config));
});
