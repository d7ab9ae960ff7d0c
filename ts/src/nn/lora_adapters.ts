/** Low-rank adapters on the linear layers of a module, named and matched as PEFT does it; what they adapt is frozen. */
import { ArgumentError } from '../errors.js';
import { native } from '../native.js';
import { tidy } from '../tidy.js';
import { Linear } from './linear.js';
import { LoraLinear, type LoraOptions } from './lora_linear.js';
import { type Initializer, type Module, modulesOf } from './module.js';

/** Which layers get an update: layers whose name is one of these or ends in `.` and one; or a text: 'all-linear', or a pattern of whole names. */
export type LoraTargets = readonly string[] | string;

/** What a layer of this path is called elsewhere, as in the folder that its weights came from. */
export type LayerNames = (path: string) => string;

export interface LoraAdapterOptions extends Omit<LoraOptions, 'context'> {
  readonly targets: LoraTargets;
}

/** Whether a layer of this name is a target. Errors: `ArgumentError` for a text that is no pattern. */
export function isLoraTarget(layer: string, targets: LoraTargets): boolean {
  if (typeof targets !== 'string') return targets.some((name) => layer === name || layer.endsWith(`.${name}`));
  return targets === 'all-linear' || pattern(targets).test(layer);
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(`^(?:${text})$`, 'u');
  } catch (cause) {
    throw new ArgumentError(
      `lora: expected targets to be a list of names, 'all-linear' or a pattern but received ${JSON.stringify(text)}`,
      { op: 'lora', argument: 'targets' },
      { cause },
    );
  }
}

/** Linear layers of a module by name: their path, or what `nameOf` makes of it. */
export function linearsOf(module: Module, nameOf: LayerNames = (path) => path): Map<string, Linear> {
  const found = new Map<string, Linear>();
  for (const [path, part] of modulesOf(module)) if (part instanceof Linear) found.set(nameOf(path), part);
  return found;
}

/** The adapters of one module. Its owner says before each forward whether that is training; dropout follows. */
export class LoraAdapters {
  training = false;

  constructor(
    readonly options: LoraAdapterOptions,
    /** Updates by the name of their linear layer. */
    readonly layers: Map<string, LoraLinear>,
    private readonly bases: ReadonlyMap<string, Linear>,
  ) {}

  /** Writes W0 + (alpha / r) B A over each W0 and takes the updates off: the same outputs but for rounding, no update left to train. */
  merge(): void {
    tidy(() => {
      for (const [name, update] of this.layers) {
        const base = this.bases.get(name)!;
        native.copy(update.merged().handle, base.weight.handle);
        base.lora = null;
        update.dispose();
      }
    });
    this.layers.clear();
  }
}

/**
 * Puts a low-rank update on every target among the linear layers of `module` and freezes those layers' own weights; with B = 0 at start
 * nothing changes. Inits are keyed by the layer's name. A module without a target stays as it is: the result then has no layers.
 * Errors: `ArgumentError` for a rank below 1, and a layer that has an update already.
 */
export function injectLora(
  module: Module,
  init: Initializer,
  options: LoraAdapterOptions,
  nameOf?: LayerNames,
): LoraAdapters {
  const { rank, alpha, dropout = 0, targets } = options;
  if (!Number.isInteger(rank) || rank < 1)
    throw new ArgumentError(`lora: expected rank to be an integer above 0 but received ${rank}`, {
      op: 'lora',
      argument: 'rank',
    });
  const linears = linearsOf(module, nameOf);
  const layers = new Map<string, LoraLinear>();
  const adapters = new LoraAdapters(options, layers, linears);
  for (const [name, linear] of linears) {
    if (!isLoraTarget(name, targets)) continue;
    if (linear.lora !== null)
      throw new ArgumentError(`lora: expected ${name} without an update but it has one`, {
        op: 'lora',
        argument: 'module',
      });
    linear.weight.requiresGrad = false;
    if (linear.bias !== null) linear.bias.requiresGrad = false;
    linear.lora = new LoraLinear(init.at(name).at('lora'), linear, { rank, alpha, dropout, context: adapters });
    layers.set(name, linear.lora);
  }
  return adapters;
}
