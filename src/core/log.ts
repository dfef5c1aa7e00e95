import { type Logger, pino } from 'pino'

export type Log = Pick<Logger, 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'isLevelEnabled'>

/** Anything shaped like a key, wherever it appears. */
const KEY = /bg_[0-9a-f]{8,}/gi
const SECRET_PARAMETERS = /([?&](?:api_key|access_token|token|key)=)[^&#\s]*/gi

/** The values that a failed query was sent with, as drizzle appends them to its message, inside a JSON string. */
const QUERY_PARAMETERS = /(\\nparams: ).*?(?=\\n {4}at |")/g

/** Removes keys, secret query parameters and the values of failed queries from a line of text. */
export const redact = (line: string): string =>
  line.replace(SECRET_PARAMETERS, '$1[redacted]').replace(KEY, 'bg_[redacted]').replace(QUERY_PARAMETERS, '$1[redacted]')

/** JSON lines on standard output. Every finished line is redacted, so no field, message or stack can carry a key. */
export function createLog(level: string, write: (line: string) => void = (line) => process.stdout.write(line)): Logger {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, { write: (line: string) => write(redact(line)) })
}
