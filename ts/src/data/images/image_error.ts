import { DataError } from '../../errors.js';

/** Why a picture is refused; one counter each. */
export const IMAGE_REASONS = [
  'missing_file',
  'empty',
  'unsupported_format',
  'corrupt',
  'too_many_pixels',
  'too_many_channels',
  'memory_budget',
  'timeout',
  'path',
] as const;
export type ImageReason = (typeof IMAGE_REASONS)[number];

/** One picture is refused. Code DATA_IMAGE; fields: reason, file. */
export class ImageError extends DataError {
  constructor(
    readonly reason: ImageReason,
    message: string,
    options?: ErrorOptions,
  ) {
    super('DATA_IMAGE', message, { reason }, options);
  }
}
