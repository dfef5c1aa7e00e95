import { z } from 'zod'
import { parseXpub } from './billing/deposits.ts'
import { parseCdpSecret } from './billing/facilitator.ts'
import { NETWORK_IDS } from './billing/networks.ts'
import { secretKeysOf } from './core/secrets.ts'

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

const count = (fallback: number, min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((value) => value >= min && value <= max, `must be a whole number from ${min} to ${max}`)
    .default(fallback)

const flag = (fallback: boolean) =>
  z
    .enum(['on', 'off', 'true', 'false', '1', '0'], 'must be on or off')
    .transform((value) => value === 'on' || value === 'true' || value === '1')
    .default(fallback)

const url = (protocols: readonly string[]) =>
  z
    .string()
    .refine(
      (value) => URL.canParse(value) && protocols.includes(new URL(value).protocol),
      `must be a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
    )

/** How many proxies' X-Forwarded-For entries to believe; "off" is none, "on" is one. */
const trustProxy = z
  .string()
  .regex(/^(off|on|\d{1,2})$/, 'must be off, on or the number of proxies in front')
  .transform((value) => (value === 'off' ? 0 : value === 'on' ? 1 : Number(value)))
  .default(0)

const evmAddress = z.string().regex(/^0x[0-9a-fA-F]{40}$/, 'must be an address: 0x and 40 hex digits')
/** An extended public key. A private one does not belong on a server, so it is refused before it is used. */
const xpub = z
  .string()
  .regex(
    /^xpub[1-9A-HJ-NP-Za-km-z]{100,120}$/,
    'must be an extended public key (xpub…); never put the private one (xprv…) on a server',
  )
const privateKey = z.string().regex(/^0x[0-9a-fA-F]{64}$/, 'must be a private key: 0x and 64 hex digits')

const providerKey = z.string().regex(/^[!-~]+$/, 'must be a key without spaces')

/** Further upstreams of the LLM proxy, as JSON. */
const upstreamList = z
  .array(
    z.strictObject({
      name: z.string().regex(/^[a-z0-9][a-z0-9_-]{0,63}$/, 'must be 1 to 64 of a-z, 0-9, _ and -'),
      url: url(['https:', 'http:']),
      key: providerKey.optional(),
      prefixes: z.array(z.string().min(1).max(64).toLowerCase()).min(1).max(100).optional(),
      protocol: z.enum(['openai', 'anthropic']).default('openai'),
      include_usage: z.boolean().default(true),
    }),
  )
  .max(100)

const upstreams = z.string().transform((value, context) => {
  const fail = (reason: string) => {
    context.addIssue({ code: 'custom', message: `must be a JSON list of upstreams (docs/proxy.md): ${reason}` })
    return z.NEVER
  }
  try {
    const parsed = upstreamList.safeParse(JSON.parse(value))
    return parsed.success ? parsed.data : fail(z.prettifyError(parsed.error))
  } catch {
    return fail('this is not JSON')
  }
})

/** Whose calls may use the operator's provider keys. */
const operatorKeys = z
  .string()
  .regex(/^(auto|on|off|[0-9a-f-]{36}(,[0-9a-f-]{36})*)$/, 'must be auto, on, off or account ids with commas between them')
  .default('auto')

const environmentSchema = z.object({
  PORT: count(8787, 0, 65_535),
  HOST: z.string().min(1).default('127.0.0.1'),
  PUBLIC_URL: url(['https:', 'http:'])
    .transform((value) => value.replace(/\/+$/, ''))
    .optional(),
  DATABASE_URL: url(['postgres:', 'postgresql:']).optional(),
  DATA_DIR: z.string().min(1).default('.gvnr'),
  DB_PREPARE: flag(true),
  DB_POOL_SIZE: count(10, 1, 200),
  ADMIN_SECRET: z
    .string()
    .min(16, 'must be at least 16 characters long: it opens every operator call. Make one with: openssl rand -hex 32')
    .optional(),
  SIGNUP_TRIAL_OPS: count(25, 0, 1_000_000_000),
  ACCOUNT_RATE_LIMIT_PER_HOUR: count(10, 0, 1_000_000),
  FAILED_AUTH_LIMIT_PER_MINUTE: count(60, 0, 1_000_000),
  PAYTO_ADDRESS: evmAddress.optional(),
  DEPOSIT_XPUB: xpub.optional(),
  X402_NETWORK: z.enum(NETWORK_IDS, `must be one of ${NETWORK_IDS.join(', ')}`).default('eip155:84532'),
  BASE_RPC_URL: url(['https:', 'http:']).optional(),
  BASE_RPC_FALLBACK_URL: url(['https:', 'http:']).optional(),
  USDC_ADDRESS: evmAddress.optional(),
  X402_FACILITATOR_URL: url(['https:', 'http:']).default('https://x402.org/facilitator'),
  CDP_API_KEY_ID: z.string().min(1).optional(),
  CDP_API_KEY_SECRET: z.string().min(1).optional(),
  FACILITATOR_PRIVATE_KEY: privateKey.optional(),
  MIN_CONFIRMATIONS: count(3, 1, 1_000),
  TRUST_PROXY: trustProxy,
  AUDIT_RETENTION_DAYS: count(0, 0, 36_500),
  LANES: count(1, 1, 64),
  PRICES_FILE: z.string().min(1).optional(),
  PRICES_URL: url(['https:', 'http:', 'file:']).optional(),
  METRICS_PUBLIC: flag(false),
  OTEL_EXPORTER_OTLP_ENDPOINT: url(['https:', 'http:'])
    .transform((value) => value.replace(/\/+$/, ''))
    .optional(),
  SMTP_URL: url(['smtp:', 'smtps:']).optional(),
  MAIL_FROM: z.string().min(3).max(320).optional(),
  TELEGRAM_API_URL: url(['https:', 'http:'])
    .transform((value) => value.replace(/\/+$/, ''))
    .default('https://api.telegram.org'),
  SECRETS_KEY: z
    .string()
    .refine((value) => secretKeysOf(value) !== null, 'must be 32 bytes as 64 hex digits or base64, several separated by commas')
    .optional(),
  OUTBOUND_ALLOW_PRIVATE: flag(false),
  UPSTREAM_OPENAI_URL: url(['https:', 'http:']).default('https://api.openai.com/v1'),
  UPSTREAM_OPENAI_KEY: providerKey.optional(),
  UPSTREAM_ANTHROPIC_URL: url(['https:', 'http:']).default('https://api.anthropic.com/v1'),
  UPSTREAM_ANTHROPIC_KEY: providerKey.optional(),
  UPSTREAM_OPENROUTER_URL: url(['https:', 'http:']).default('https://openrouter.ai/api/v1'),
  UPSTREAM_OPENROUTER_KEY: providerKey.optional(),
  UPSTREAMS: upstreams.optional(),
  PROXY_OPERATOR_KEYS: operatorKeys,
  PROXY_BODY_LIMIT_MIB: count(32, 1, 256),
  PROXY_TIMEOUT_SECONDS: count(600, 1, 86_400),
  PROXY_MAX_CALLS: count(5_000, 1, 1_000_000),
  PROXY_MAX_REPEATS: count(20, 0, 10_000),
  STREAM_CUTOFF: flag(false),
  DRAIN_NOTICE_SECONDS: count(0, 0, 3_600),
  DRAIN_SECONDS: count(8, 1, 3_600),
  RGF_FILE: z.string().min(1).optional(),
  RGF_JOURNAL_DIR: z.string().min(1).default('.gvnr-journal'),
  LOG_LEVEL: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
})

export type Config = z.output<typeof environmentSchema>

/** Keys that move money out: read by the sweep command alone, never by the server. */
export function readSweepKeys(environment: Record<string, string | undefined> = process.env): {
  depositXprv: string
  gasKey: `0x${string}`
} {
  const { DEPOSIT_XPRV: depositXprv = '', SWEEP_GAS_PRIVATE_KEY: gasKey = '' } = environment
  if (!depositXprv.startsWith('xprv')) throw new ConfigError('DEPOSIT_XPRV must be the extended private key of DEPOSIT_XPUB.')
  if (!privateKey.safeParse(gasKey).success)
    throw new ConfigError('SWEEP_GAS_PRIVATE_KEY must be a private key: 0x and 64 hex digits.')
  return { depositXprv, gasKey: gasKey as `0x${string}` }
}

function works(attempt: () => unknown): boolean {
  try {
    attempt()
    return true
  } catch {
    return false
  }
}

/** What one setting's own rule cannot see. */
function crossChecks(config: Config): string[] {
  const isHalf = (config.CDP_API_KEY_ID === undefined) !== (config.CDP_API_KEY_SECRET === undefined)
  const problems = isHalf ? ['CDP_API_KEY_ID and CDP_API_KEY_SECRET must be set together.'] : []
  const { DEPOSIT_XPUB: xpub, CDP_API_KEY_SECRET: secret } = config
  if (xpub !== undefined && !works(() => parseXpub(xpub)))
    problems.push('DEPOSIT_XPUB must be an extended public key (xpub…): this one is mistyped.')
  if (secret !== undefined && !works(() => parseCdpSecret(secret)))
    problems.push("CDP_API_KEY_SECRET must be a CDP key's secret: base64 of 64 bytes (Ed25519) or PEM (EC).")
  if ((config.SMTP_URL === undefined) !== (config.MAIL_FROM === undefined))
    problems.push('SMTP_URL and MAIL_FROM must be set together.')
  return problems
}

/** A setting that cannot be used; the message names it and says what it must be. */
export class ConfigError extends Error {}

/**
 * Reads the whole configuration from the environment (contract section 11). Empty variables count as unset.
 * @throws ConfigError naming every bad value
 */
export function readConfig(environment: Record<string, string | undefined> = process.env): Config {
  const set = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== undefined && value !== ''))
  const parsed = environmentSchema.safeParse(set)
  const contradictions = parsed.success ? crossChecks(parsed.data) : []
  if (parsed.success && contradictions.length === 0) return parsed.data
  if (parsed.success) throw new ConfigError(contradictions.join('\n'))
  throw new ConfigError(parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}.`).join('\n'))
}
