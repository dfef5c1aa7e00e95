import { type Logger, pino } from 'pino'

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'isLevelEnabled'>

/** Anything shaped like a key, wherever it appears. */
const KEY = /bg_[0-9a-f]{8,}/gi
/** The token of an approval link: who has it can decide. */
const APPROVAL = /\bap_[\w-]{16,}/g
const SECRET_PARAMETERS = /([?&](?:api_key|access_token|token|key)=)[^&#\s]*/gi

/** Removes keys, approval tokens and secret query parameters from a line of text. */
export const redact = (line: string): string =>
  line.replace(SECRET_PARAMETERS, '$1[redacted]').replace(KEY, 'bg_[redacted]').replace(APPROVAL, 'ap_[redacted]')

/** Where viem says which node failed. Behind the host of such an address is the key that its provider bills. */
const NODE_URL = /\bURL: (\S+)/g
const MAX_CAUSES = 16

/**
 * What a log line keeps of an error: its class, text and code. Never its other fields, in which libraries keep what they were called with (drizzle
 * a failed query's values, PostgreSQL the row that violates a constraint), nor the same in its text. The values are cut out as the very text
 * that drizzle made of them, since they may hold anything: quotes, line breaks, what looks like the end of them.
 */
function loggedError(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const { type, message, stack } = pino.stdSerializers.err(error)
  const values: string[] = []
  let code: unknown
  let cause: unknown = error
  for (let depth = 0; depth < MAX_CAUSES && cause instanceof Error; depth++, cause = cause.cause) {
    if ('params' in cause && Array.isArray(cause.params)) values.push(`\nparams: ${cause.params}`)
    if ('code' in cause) code ??= cause.code
  }
  const clean = (text: string): string =>
    values
      .reduce((rest, value) => rest.replaceAll(value, '\nparams: [redacted]'), text)
      .replace(NODE_URL, (_, url: string) => `URL: ${URL.canParse(url) ? new URL(url).origin : ''}/[redacted]`)
  return { type, message: clean(message), stack: clean(stack), ...(code !== undefined && { code }) }
}

/** JSON lines on standard output. Every finished line is redacted, so no field, message or stack can carry a key; errors go in under `err`. */
export function createLog(level: string, write: (line: string) => void = (line) => process.stdout.write(line)): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, serializers: { err: loggedError } },
    { write: (line: string) => write(redact(line)) },
  )
}
