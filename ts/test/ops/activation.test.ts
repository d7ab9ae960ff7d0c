import type { Activation } from '../../src/native_kernels.js';
import { activation, geluTanh, quickGelu } from '../../src/ops/activation.js';
import { opSuite } from '../harness.js';

const kinds: Activation[] = ['none', 'relu', 'gelu', 'silu', 'sigmoid', 'tanh'];

opSuite<{ kind: Activation }>('activation', {
  run: ({ x }, options) => activation(x!, options),
  golden: 'activation',
  cases: kinds.flatMap((kind) => [
    { name: `${kind}, odd shape`, inputs: { x: [3, 17] }, options: { kind } },
    { name: `${kind}, one element`, inputs: { x: [1] }, options: { kind } },
    { name: `${kind}, empty`, inputs: { x: [0, 4] }, options: { kind } },
    { name: `${kind}, past one chunk`, inputs: { x: { shape: [129, 257], fixed: true } }, options: { kind } },
    { name: `${kind}, far values`, inputs: { x: { values: [-100, -30, 30, 100] } }, options: { kind } },
  ]),
  rejects: [
    {
      inputs: { x: { ints: [1, 2] } },
      options: { kind: 'relu' },
      says: /activation: expected x to be float32 or float64 but received int32/,
    },
    { inputs: { x: [2] }, options: { kind: 'swish' as Activation }, says: /expected `kind` to be one of none, relu/ },
  ],
});

opSuite<{ kind: 'quick_gelu' | 'gelu_tanh' }>('forms of gelu', {
  run: ({ x }, { kind }) => (kind === 'quick_gelu' ? quickGelu(x!) : geluTanh(x!)),
  golden: 'gelu_forms',
  cases: (['quick_gelu', 'gelu_tanh'] as const).flatMap((kind) => [
    { name: `${kind}, odd shape`, inputs: { x: [3, 17] }, options: { kind } },
    { name: `${kind}, far values`, inputs: { x: { values: [-100, -30, 30, 100] } }, options: { kind } },
  ]),
});
