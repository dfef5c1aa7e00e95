import {
  CLIENT_CAPABILITIES_META_KEY,
  CLIENT_INFO_META_KEY,
  type Implementation,
  PROTOCOL_VERSION_META_KEY,
  SERVER_INFO_META_KEY,
  SUPPORTED_PROTOCOL_VERSIONS,
} from '@modelcontextprotocol/server'
import { clientCapabilitiesSchema } from './mcp-elicitation.ts'
import type { ToolAnswer } from './mcp-tools.ts'

/**
 * The fast lane answers the plainest requests, a well-formed `tools/call` of a known tool, without building an SDK server. It only
 * ever recognises what it is sure of; everything else goes to the SDK, which stays the reference: a differential test sends
 * thousands of requests through both and compares status, content type and every byte.
 */
export type PlainCall = {
  readonly id: string | number
  readonly name: string
  readonly arguments: Record<string, unknown>
  /** Whether the request speaks protocol 2026-07-28; else one of the revisions up to 2025-11-25. */
  readonly modern: boolean
}

const MODERN_VERSION = '2026-07-28'
const LEGACY_VERSIONS: ReadonlySet<string> = new Set(SUPPORTED_PROTOCOL_VERSIONS)
const NO_ARGUMENTS: Record<string, unknown> = {}
/** `_meta` keys with this prefix have a meaning of their own, so the lane must know each. */
const RESERVED_PREFIX = 'io.modelcontextprotocol/'

/** Its answer may be a question to the human first, for clients that say they can open a page. */
const ELICITING_TOOL = 'request_approval'

type Fields = Record<string, unknown>
type HeaderReader = (name: string) => string | undefined

/** The call, when the message is one that the lane may answer; null sends it to the SDK. */
export function readPlainCall(message: unknown, header: HeaderReader, isTool: (name: string) => boolean): PlainCall | null {
  if (!isFields(message) || !hasOnly(message, MESSAGE_KEYS)) return null
  const { jsonrpc, id, method, params } = message
  if (jsonrpc !== '2.0' || method !== 'tools/call') return null
  if (typeof id !== 'string' && !Number.isSafeInteger(id)) return null
  if (!isFields(params) || !hasOnly(params, PARAMS_KEYS)) return null
  const { name, arguments: args = NO_ARGUMENTS, _meta: meta } = params
  if (typeof name !== 'string' || !isTool(name)) return null
  // JSON can carry a key that the SDK's parser drops; the lane leaves it to the SDK.
  if (!isFields(args) || Object.hasOwn(args, '__proto__')) return null
  const modern = eraOf(meta, name, header)
  if (modern === null || (modern && name === ELICITING_TOOL && canOpenUrls(meta))) return null
  return { id: id as string | number, name, arguments: args, modern }
}

/** The response to a plain call, byte for byte as the SDK writes it. */
export function createPlainAnswers(info: Implementation): (call: PlainCall, answer: ToolAnswer) => string {
  const modernFields = `,"resultType":"complete","_meta":${JSON.stringify({ [SERVER_INFO_META_KEY]: info })}`
  return (call, { isError, json, text }) => {
    // A success says it twice: as text for clients of any age, and as structured content.
    const outcome = isError ? ',"isError":true' : `,"structuredContent":${json}`
    const result = `{"content":[{"type":"text","text":${JSON.stringify(text)}}]${outcome}${call.modern ? modernFields : ''}}`
    return `{"result":${result},"jsonrpc":"2.0","id":${JSON.stringify(call.id)}}`
  }
}

const MESSAGE_KEYS: ReadonlySet<string> = new Set(['jsonrpc', 'id', 'method', 'params'])
const PARAMS_KEYS: ReadonlySet<string> = new Set(['name', 'arguments', '_meta'])

/** True for 2026-07-28, false for the revisions before it, null when only the SDK can tell. */
function eraOf(meta: unknown, name: string, header: HeaderReader): boolean | null {
  const version = header('mcp-protocol-version')
  if (meta === undefined) return isLegacyVersion(version) ? false : null
  if (!isFields(meta) || !isProgressToken(meta.progressToken)) return null
  for (const key in meta) if (key.startsWith(RESERVED_PREFIX) && !ENVELOPE_KEYS.has(key)) return null
  if (!(PROTOCOL_VERSION_META_KEY in meta)) {
    // Envelope keys without a version claim nothing; rare enough to leave alone.
    if (CLIENT_INFO_META_KEY in meta || CLIENT_CAPABILITIES_META_KEY in meta) return null
    return isLegacyVersion(version) ? false : null
  }
  if (meta[PROTOCOL_VERSION_META_KEY] !== MODERN_VERSION || version !== MODERN_VERSION) return null
  if (header('mcp-method') !== 'tools/call' || header('mcp-name') !== name) return null
  return isPlainCapabilities(meta[CLIENT_CAPABILITIES_META_KEY]) && isPlainClientInfo(meta[CLIENT_INFO_META_KEY]) ? true : null
}

const ENVELOPE_KEYS: ReadonlySet<string> = new Set([
  PROTOCOL_VERSION_META_KEY,
  CLIENT_INFO_META_KEY,
  CLIENT_CAPABILITIES_META_KEY,
])

const isLegacyVersion = (version: string | undefined): boolean => version === undefined || LEGACY_VERSIONS.has(version)

/** Answers are JSON and complete at once, so a token that asks for progress changes nothing; it only has to be one. */
const isProgressToken = (token: unknown): boolean =>
  token === undefined || typeof token === 'string' || Number.isSafeInteger(token)

const INFO_KEYS: ReadonlySet<string> = new Set(['name', 'title', 'version', 'websiteUrl', 'description'])

function isPlainClientInfo(info: unknown): boolean {
  if (info === undefined) return true
  if (!isFields(info) || !hasOnly(info, INFO_KEYS)) return false
  if (typeof info.name !== 'string' || typeof info.version !== 'string') return false
  for (const key in info) if (typeof info[key] !== 'string') return false
  return true
}

/** The capabilities that clients send and the lane knows, with empty settings; a client with more goes to the SDK. */
const CAPABILITIES: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['elicitation', new Set(['form', 'url'])],
  ['sampling', new Set(['context', 'tools'])],
  ['roots', new Set()],
])

function isPlainCapabilities(capabilities: unknown): boolean {
  if (!isFields(capabilities)) return false
  for (const key in capabilities) {
    const settings = capabilities[key]
    const known = CAPABILITIES.get(key)
    if (known === undefined || !isFields(settings) || !hasOnly(settings, known)) return false
    for (const setting in settings) if (!isEmpty(settings[setting])) return false
  }
  return true
}

const canOpenUrls = (meta: unknown): boolean =>
  clientCapabilitiesSchema.safeParse(isFields(meta) ? meta[CLIENT_CAPABILITIES_META_KEY] : undefined).success

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value)

function isEmpty(value: unknown): boolean {
  return isFields(value) && hasOnly(value, NOTHING)
}
const NOTHING: ReadonlySet<string> = new Set()

function hasOnly(fields: Fields, allowed: ReadonlySet<string>): boolean {
  for (const key in fields) if (!allowed.has(key)) return false
  return true
}
