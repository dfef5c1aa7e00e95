/** Whose wire format a path speaks, errors included. */
export type Protocol = 'openai' | 'anthropic'
export type RouteKind = 'chat' | 'responses' | 'embeddings' | 'messages' | 'count_tokens'

export type Route = {
  readonly kind: RouteKind
  readonly protocol: Protocol
  /** Below `/v1`, here and at the provider. */
  readonly path: string
  readonly summary: string
}

/** What the proxy forwards (contract section 9). */
export const ROUTES: readonly Route[] = [
  { kind: 'chat', protocol: 'openai', path: '/chat/completions', summary: 'OpenAI chat completions' },
  { kind: 'responses', protocol: 'openai', path: '/responses', summary: 'OpenAI responses' },
  { kind: 'embeddings', protocol: 'openai', path: '/embeddings', summary: 'OpenAI embeddings' },
  { kind: 'messages', protocol: 'anthropic', path: '/messages', summary: 'Anthropic messages' },
  {
    kind: 'count_tokens',
    protocol: 'anthropic',
    path: '/messages/count_tokens',
    summary: 'Anthropic token counting, not charged',
  },
]
