import type { StreamState } from './reader.ts'

const line = (data: unknown, event?: string): string =>
  `${event === undefined ? '' : `event: ${event}\n`}data: ${JSON.stringify(data)}\n\n`

/**
 * The events that end a stream which is cut at its budget, as the provider itself ends one that has reached its token limit: clients then
 * keep what they have got and see why it is short.
 */
export function terminalEvents(state: StreamState): Buffer {
  return Buffer.from(EVENTS[state.kind](state))
}

const EVENTS: Readonly<Record<StreamState['kind'], (state: StreamState) => string>> = {
  chat({ first }) {
    const { id, created, model } = first ?? {}
    const choices = [{ index: 0, delta: {}, logprobs: null, finish_reason: 'length' }]
    return `${line({ id, object: 'chat.completion.chunk', created, model, choices })}data: [DONE]\n\n`
  },
  responses({ first, sequence }) {
    const response = {
      ...(first?.response as object | undefined),
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
    }
    return line({ type: 'response.incomplete', sequence_number: sequence + 1, response }, 'response.incomplete')
  },
  messages({ openBlocks }) {
    const stops = [...openBlocks].map((index) => line({ type: 'content_block_stop', index }, 'content_block_stop'))
    const delta = { stop_reason: 'max_tokens', stop_sequence: null }
    const end = line({ type: 'message_delta', delta, usage: { output_tokens: 0 } }, 'message_delta')
    return `${stops.join('')}${end}${line({ type: 'message_stop' }, 'message_stop')}`
  },
  embeddings: () => '',
  count_tokens: () => '',
}
