/** The length of the strings in a piece of output. `opaque` is the part that is not words: audio, signatures, what is encrypted, citations. */
export type OutputBytes = { readonly bytes: number; readonly opaque: number }

/** What names a thing and is not written by the model. */
const NAMES = new Set(['role', 'type', 'id', 'call_id', 'item_id', 'tool_use_id', 'status', 'format'])
const OPAQUE = new Set(['data', 'signature', 'encrypted_content', 'annotations', 'citation', 'citations', 'logprobs'])
/** The same thinking a second time, as some providers send it for clients of different ages. */
const REPEATS = ['reasoning_content', 'reasoning_details']

/**
 * Counts every string in a piece of output, wherever it stands: a provider bills what it wrote, under names that nobody here has heard of
 * too. Goes through it without recursion, in time proportional to its size.
 */
export function outputIn(piece: unknown): OutputBytes {
  if (typeof piece === 'string') return { bytes: Buffer.byteLength(piece), opaque: 0 }
  let bytes = 0
  let opaque = 0
  const open: { readonly value: unknown; readonly isOpaque: boolean }[] = [{ value: piece, isOpaque: false }]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value } = next
    if (typeof value !== 'object' || value === null) continue
    const repeats = 'reasoning' in value && typeof value.reasoning === 'string' && value.reasoning !== '' ? REPEATS : []
    const isList = Array.isArray(value)
    for (const [name, item] of Object.entries(value)) {
      if (!isList && (NAMES.has(name) || repeats.includes(name))) continue
      const isOpaque = next.isOpaque || (!isList && OPAQUE.has(name))
      if (typeof item === 'string') {
        const length = Buffer.byteLength(item)
        bytes += length
        if (isOpaque) opaque += length
      } else if (typeof item === 'object' && item !== null) open.push({ value: item, isOpaque })
    }
  }
  return { bytes, opaque }
}
