import { z } from 'zod'

/**
 * A string of `min`–`max` characters (Unicode code points, as JSON Schema counts them) that PostgreSQL can
 * store: no NUL, no lone surrogate, which would be silently replaced and let two ids become one.
 */
export const text = (min: number, max: number) =>
  z
    .string()
    .superRefine((value, context) => {
      const length = value.length <= max ? value.length : [...value.slice(0, 2 * max + 2)].length
      if (length < min || length > max) {
        context.addIssue({ code: 'custom', message: `must be ${min} to ${max} characters long` })
      } else if (value.includes('\0') || !value.isWellFormed()) {
        context.addIssue({ code: 'custom', message: 'must be valid Unicode without NUL characters' })
      }
    })
    .meta({ minLength: min, maxLength: max })

/** `agent_id` of the contract: 1–128 characters; `/` separates the levels of a path. */
export const agentIdSchema = text(1, 128)
  .describe('The agent, 1-128 characters. A path: an envelope on "team" also caps "team/crawler"; "*" is the whole account.')
  .meta({ examples: ['crawler', 'team/crawler'] })

export const modelSchema = text(1, 128)
  .describe('The model id as the provider spells it; dated versions and provider prefixes resolve.')
  .meta({ examples: ['claude-sonnet-4-6'] })

export const providerSchema = text(1, 64)
  .describe('The provider, 1-64 characters.')
  .meta({ examples: ['anthropic'] })

/** A finite JSON integer within bounds. */
export const integer = (min: number, max: number) => z.number().int().min(min).max(max)
