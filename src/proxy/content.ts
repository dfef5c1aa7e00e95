export type Body = Readonly<Record<string, unknown>>

/** What the body holds, as far as it matters for how much of it can be billed. */
export type Content = {
  /** The most tokens that its text makes, with what providers put around it. Images aside. */
  readonly textTokens: number
  readonly images: number
  /** True when it refers to input that it does not hold, or has a part whose bytes say nothing of its tokens. */
  readonly isOpaque: boolean
}

/** What providers add around a message, around a tool that they define, and around tools and a whole request. */
const TOKENS_PER_MESSAGE = 16
const TOKENS_PER_DEFINED_TOOL = 1024
const TOKENS_PER_REQUEST = 1024

/** Deeper than any protocol nests its parts. */
const MAX_DEPTH = 8

type Found = { images: number; imageBytes: number; isOpaque: boolean }

/**
 * Byte-level BPE makes at most one token of a byte, and the body is at least as long as the text in it; inline images count by the piece.
 * Parts are looked for only where the protocols have them: what a caller writes into a tool's input or schema is text, whatever it looks like.
 */
export function contentOf(body: Body, bytes: number): Content {
  const found: Found = { images: 0, imageBytes: 0, isOpaque: refersElsewhere(body) }
  let messages = 1
  for (const list of [body.messages, body.input, body.system]) {
    if (Array.isArray(list)) {
      messages += list.length
      for (const item of list) lookAtItem(item, found)
    } else if (!isAbsent(list) && typeof list !== 'string') found.isOpaque = true
  }
  const text = bytes - found.imageBytes + messages * TOKENS_PER_MESSAGE + TOKENS_PER_REQUEST
  const textTokens = text + toolsOf(body).filter(isDefinedElsewhere).length * TOKENS_PER_DEFINED_TOOL
  return { textTokens, images: found.images, isOpaque: found.isOpaque }
}

export const isObject = (value: unknown): value is Body => typeof value === 'object' && value !== null && !Array.isArray(value)
export const isAbsent = (value: unknown): value is null | undefined => value === null || value === undefined

/** A message, or what OpenAI's `input` has beside messages. */
function lookAtItem(item: unknown, found: Found): void {
  if (!isObject(item)) return
  const isMessage = item.role !== undefined || (isAbsent(item.type) && item.content !== undefined)
  if (!isMessage) {
    lookAtPart(item, found, 0)
    return
  }
  // An earlier spoken answer is named, not sent.
  if ((!isAbsent(item.type) && item.type !== 'message') || !isAbsent(item.audio)) found.isOpaque = true
  lookAtParts(item.content, found, 0)
  lookAtParts(item.images, found, 0)
}

function lookAtParts(parts: unknown, found: Found, depth: number): void {
  if (Array.isArray(parts)) for (const part of parts) lookAtPart(part, found, depth)
  else lookAtPart(parts, found, depth)
}

const IMAGES = new Set(['image', 'image_url', 'input_image', 'computer_screenshot'])
/** Parts that are billed for nothing but what is written in them. */
const WRITTEN = new Set([
  'text',
  'input_text',
  'output_text',
  'summary_text',
  'reasoning_text',
  'refusal',
  'thinking',
  'redacted_thinking',
  'tool_use',
  'server_tool_use',
  'mcp_tool_use',
  'web_search_tool_result',
  'search_result',
  'function_call',
  'custom_tool_call',
  'computer_call',
  'local_shell_call',
  'local_shell_call_output',
  'shell_call',
  'shell_call_output',
  'apply_patch_call',
  'apply_patch_call_output',
])
/** Where a part has parts of its own. */
const HOLDS_PARTS: ReadonlyMap<unknown, string> = new Map([
  ['message', 'content'],
  ['tool_result', 'content'],
  ['mcp_tool_result', 'content'],
  ['function_call_output', 'output'],
  ['custom_tool_call_output', 'output'],
  ['computer_call_output', 'output'],
])

function lookAtPart(part: unknown, found: Found, depth: number): void {
  if (!isObject(part)) return
  const { type, source } = part
  const parts = HOLDS_PARTS.get(type)
  if (depth > MAX_DEPTH) found.isOpaque = true
  else if (typeof type === 'string' && IMAGES.has(type)) {
    found.images++
    found.imageBytes += inlineBytes(part)
  } else if (parts !== undefined) lookAtParts(part[parts], found, depth + 1)
  else if (type === 'document' && isObject(source) && source.type === 'content') lookAtParts(source.content, found, depth + 1)
  else if (!isWritten(part)) found.isOpaque = true
}

/** Whether the bytes bound the tokens. Of a kind that is not known here, nobody can say. */
function isWritten(part: Body): boolean {
  const { type, source } = part
  if (isAbsent(type)) return typeof part.text === 'string'
  if (type === 'document') return isObject(source) && source.type === 'text'
  // Without its content, the provider has what was thought.
  if (type === 'reasoning') return typeof part.encrypted_content === 'string' || isAbsent(part.id)
  return typeof type === 'string' && WRITTEN.has(type)
}

/** How much of the body is an image's data: base64, so as many bytes as it has characters. */
function inlineBytes(part: Body): number {
  const { source } = part
  if (isObject(source)) {
    const isImage = source.type === 'base64' && (source.media_type === undefined || /^image\//.test(String(source.media_type)))
    return isImage && typeof source.data === 'string' && isBase64(source.data) ? source.data.length : 0
  }
  const url = isObject(part.image_url) ? part.image_url.url : part.image_url
  if (typeof url !== 'string') return 0
  const head = /^data:image\/[\w.+-]{1,32};base64,/.exec(url)?.[0]
  return head !== undefined && isBase64(url.slice(head.length)) ? url.length : 0
}

/** A search for what is not, which takes a pass over megabytes and no more. */
const isBase64 = (data: string): boolean => !/[^\w+/=-]/.test(data)

const REFERENCES = [
  'previous_response_id',
  'conversation',
  'prompt',
  'preset',
  'mcp_servers',
  'container',
  'web_search_options',
  'plugins',
] as const
/** Tools that the caller runs itself; every other kind runs at the provider and reads what it likes. */
const CALLERS_TOOL = /^(function$|custom$|bash_|text_editor_|computer_|memory_)/

function refersElsewhere(body: Body): boolean {
  if (REFERENCES.some((name) => !isAbsent(body[name]))) return true
  if (!isAbsent(body.tools) && !Array.isArray(body.tools)) return true
  return toolsOf(body).some(({ type }) => !isAbsent(type) && !(typeof type === 'string' && CALLERS_TOOL.test(type)))
}

/** The caller runs it, the provider describes it. */
const isDefinedElsewhere = ({ type }: Body): boolean => typeof type === 'string' && type !== 'function' && type !== 'custom'

export const toolsOf = (body: Body): Body[] => (Array.isArray(body.tools) ? body.tools.filter(isObject) : [])

/** The top-level fields that are read here and in bound.ts. */
export const READ_FIELDS = [
  ...REFERENCES,
  'messages',
  'input',
  'system',
  'tools',
  'n',
  'best_of',
  'max_tokens',
  'max_completion_tokens',
  'max_output_tokens',
  'reasoning',
  'reasoning_effort',
  'thinking',
  'service_tier',
  'speed',
  'inference_geo',
  'context_management',
] as const
