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

/** The same as a parameter of a GET, where it arrives as digits. */
export const queryInteger = (min: number, max: number) =>
  z.preprocess((value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value), integer(min, max))

/** Invisible characters that reorder or hide the text around them. The two joiners stay: emoji and several scripts need them. */
const DECEPTIVE = /(?![\u200c\u200d])\p{Cf}/gu
const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}]+/gu

/**
 * One line of text as a person may be shown it: what an agent wrote can neither break the line, nor reorder or hide what stands beside
 * it. Markup still has to be escaped for the place it goes to.
 */
export const plainLine = (value: string): string => value.replace(CONTROL, ' ').replace(DECEPTIVE, '\ufffd').trim()
