import { describe, expect, it } from 'vitest'
import { outputIn } from '../../../src/proxy/output.ts'
import { PlainReader, type Seen, StreamReader } from '../../../src/proxy/reader.ts'
import type { RouteKind } from '../../../src/proxy/routes.ts'

function seenIn(kind: RouteKind, ...events: unknown[]): Seen {
  const reader = new StreamReader(kind, { hidesUsage: false, wholeEvents: false })
  for (const event of events) reader.push(Buffer.from(`data: ${JSON.stringify(event)}\n\n`))
  reader.end()
  return reader.seen
}
const chat = (delta: unknown): Seen => seenIn('chat', { choices: [{ index: 0, delta }] })
const counted = ({ pieces, textBytes, opaqueBytes }: Seen) => [pieces, textBytes, opaqueBytes]

describe('the output of a chat stream', () => {
  it.each([
    ['text', { role: 'assistant', content: '12345' }, 5, 0],
    ['text in parts', { content: [{ type: 'text', text: '12345' }] }, 5, 0],
    ['refusals', { refusal: '12345' }, 5, 0],
    ['thinking', { reasoning_content: '12345' }, 5, 0],
    ['thinking that comes twice', { reasoning: '12345', reasoning_details: [{ type: 'reasoning.text', text: '12345' }] }, 5, 0],
    ['tool calls', { tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { arguments: '12345' } }] }, 5, 0],
    ['custom tools', { tool_calls: [{ index: 0, id: 'call_1', type: 'custom', custom: { input: '12345' } }] }, 5, 0],
    ['the function call of old', { function_call: { arguments: '12345' } }, 5, 0],
    ['audio and what it says', { audio: { id: 'audio_1', data: 'AAAA', transcript: '12345' } }, 9, 4],
    ['what nobody has heard of', { something: [[{ new: '12345' }]] }, 5, 0],
  ])('is counted: %s', (_name, delta, bytes, opaque) => {
    expect(counted(chat(delta))).toEqual([1, bytes, opaque])
  })

  it('is not the names of things', () => {
    expect(counted(chat({ role: 'assistant', content: '' }))).toEqual([0, 0, 0])
    expect(counted(chat({ tool_calls: [{ index: 0, id: 'call_1', type: 'function' }] }))).toEqual([0, 0, 0])
  })

  it('is counted however deep it lies', () => {
    let delta: unknown = '12345'
    for (let depth = 0; depth < 50_000; depth++) delta = [delta]
    expect(outputIn(delta)).toEqual({ bytes: 5, opaque: 0 })
  })
})

describe('the output of a response stream', () => {
  it('is every delta, whatever its event, and of items what came whole', () => {
    for (const type of [
      'output_text',
      'function_call_arguments',
      'custom_tool_call_input',
      'code_interpreter_call_code',
      'audio',
    ])
      expect(counted(seenIn('responses', { type: `response.${type}.delta`, output_index: 0, delta: '12345' }))).toEqual([1, 5, 0])
    const delta = { type: 'response.function_call_arguments.delta', output_index: 0, delta: '12345' }
    const done = (item: unknown) => ({ type: 'response.output_item.done', output_index: 0, item })
    expect(counted(seenIn('responses', delta, done({ type: 'function_call', id: 'f', arguments: '12345' })))).toEqual([1, 5, 0])
    const whole = done({ type: 'computer_call', id: 'c', action: { type: 'type', text: '12345' } })
    expect(counted(seenIn('responses', whole))).toEqual([1, 5, 5])
  })
})

describe('the output of a message stream', () => {
  it.each([
    ['text', { type: 'text_delta', text: '12345' }, 0],
    ['tools', { type: 'input_json_delta', partial_json: '12345' }, 0],
    ['thinking', { type: 'thinking_delta', thinking: '12345' }, 0],
    ['its signature', { type: 'signature_delta', signature: '12345' }, 5],
    ['compactions', { type: 'compaction_delta', content: '12345' }, 0],
  ])('is every string of a delta: %s', (_name, delta, opaque) => {
    expect(counted(seenIn('messages', { type: 'content_block_delta', index: 0, delta }))).toEqual([1, 5, opaque])
  })

  it('is also what a block begins with', () => {
    const start = (content_block: unknown) => seenIn('messages', { type: 'content_block_start', index: 0, content_block })
    expect(counted(start({ type: 'redacted_thinking', data: '12345' }))).toEqual([1, 5, 5])
    expect(start({ type: 'tool_use', id: 'toolu_1', name: 'f', input: {} }).hasOtherPasses).toBe(false)
    for (const type of ['compaction', 'server_tool_use', 'advisor_tool_result'])
      expect(start({ type, content: '' }).hasOtherPasses).toBe(true)
  })
})

describe('what else an answer tells', () => {
  it('the service tier that was used, in streams and plain answers', () => {
    expect(seenIn('chat', { choices: [], service_tier: 'priority' }).tier).toBe('priority')
    expect(seenIn('responses', { type: 'response.completed', response: { service_tier: 'priority' } }).tier).toBe('priority')
    const plain = new PlainReader('chat')
    plain.push(Buffer.from('{"service_tier":"priority"}'))
    plain.end()
    expect(plain.seen.tier).toBe('priority')
  })

  it('no usage of a response that is still to be made', () => {
    for (const status of ['queued', 'in_progress']) {
      const plain = new PlainReader('responses')
      plain.push(Buffer.from(JSON.stringify({ status, usage: { input_tokens: 0, output_tokens: 0 } })))
      plain.end()
      expect(plain.seen).toMatchObject({ usage: null, isFinal: false })
    }
  })
})
