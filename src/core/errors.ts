/** Every code an error body may carry, with its HTTP status, whether trying again can help, and what to do next. */
const CODES = {
  missing_api_key: [401, false, 'Send "Authorization: Bearer bg_…" (or X-API-Key, or ?api_key=). POST /v1/account makes a key.'],
  invalid_api_key: [
    401,
    false,
    'The key is unknown, expired or revoked. Check it for typos or ask the account owner for a new one.',
  ],
  unauthorized: [
    401,
    false,
    'Send the operator secret in X-Admin-Secret. It must equal ADMIN_SECRET of this server, which must be set.',
  ],
  forbidden: [403, false, 'This key may not do that. Use a key with the needed scope, such as the owner key.'],
  invalid_params: [400, false, 'Correct the fields listed in issues and send the request again.'],
  invalid_json: [400, false, 'Send a JSON object as the body, for example {"agent_id":"crawler"}.'],
  unsupported_media_type: [415, false, 'Send the body as JSON with Content-Type: application/json.'],
  payload_too_large: [413, false, 'The body is larger than this endpoint accepts. Send less.'],
  malformed_request: [400, false, 'This is not a well-formed HTTP/1.1 request. Check the request line and the headers.'],
  headers_too_large: [431, false, 'The headers are larger than this server accepts (16 KiB). Send fewer or shorter ones.'],
  request_timeout: [408, true, 'The request did not arrive in time. Send all of it at once.'],
  expectation_failed: [417, false, 'Of the Expect header only 100-continue is understood. Leave it out.'],
  invalid_email: [400, false, 'Send a plain address such as ops@example.com, at most 254 characters.'],
  invalid_agent_id: [400, false, 'agent_id must be 1 to 128 characters long.'],
  invalid_action_summary: [400, false, 'action_summary must say in 1 to 280 characters what the human is asked to allow.'],
  invalid_ttl_seconds: [400, false, 'ttl_seconds must be a whole number from 1 to 604800.'],
  invalid_channels: [
    400,
    false,
    'channels must list channel ids (GET /v1/account/channels) or kinds: email, slack, discord, telegram, webhook.',
  ],
  invalid_webhook_url: [
    400,
    false,
    'The address must be an https:// URL of a public host, without user name or password, at most 2048 characters.',
  ],
  no_envelope: [400, false, 'No envelope covers this agent. Set one with PUT /v1/budget/envelope first.'],
  no_pending_clearance: [
    400,
    false,
    'No open clearance to settle. Clear first (budget_clear, POST /v1/budget/clear) and use its clearance_id once, before it expires.',
  ],
  not_found: [404, false, 'Nothing is there. Check the path and the ids; GET /openapi.json lists every endpoint.'],
  account_not_found: [404, false, 'No account has this key or id. Check it for typos.'],
  approval_not_found: [
    404,
    false,
    'This account has no approval with that approval_id. Use the one that request_approval (POST /v1/approval/request) returned.',
  ],
  method_not_allowed: [405, false, 'This path exists, but not for this method. GET /openapi.json lists what it takes.'],
  approval_changed: [
    409,
    true,
    'What approving would do has changed since it was shown. Open the page again, read it and decide again.',
  ],
  idempotency_conflict: [
    409,
    true,
    'The first request with this Idempotency-Key is still running. Wait a moment and send it again.',
  ],
  idempotency_mismatch: [422, false, 'This Idempotency-Key was used for a different request. Use a new key for a new request.'],
  payment_required: [
    402,
    false,
    'Pay the terms in the PAYMENT-REQUIRED header (x402 version 2) or in accepts (version 1) and send the request again with the payment.',
  ],
  payment_failed: [
    402,
    false,
    'The payment was refused and nothing was charged. Correct what reason says and pay the terms again.',
  ],
  invalid_amount: [400, false, 'usd is an amount in dollars and whole cents, for example usd=5 or usd=7.50.'],
  below_minimum: [400, false, 'The smallest top-up is $1.'],
  above_maximum: [400, false, 'The largest top-up is $100. Make several for more.'],
  invalid_pack: [400, false, 'The packs are starter, growth and studio.'],
  invalid_tx_hash: [400, false, 'A transaction hash is 0x and 64 hex digits, as the wallet or the explorer shows it.'],
  tx_not_found: [
    400,
    true,
    'The chain does not know this transaction (yet). Check the hash and the network, wait some seconds and try again.',
  ],
  tx_failed: [400, false, 'This transaction failed on the chain, so it moved nothing.'],
  transfer_not_found: [
    400,
    false,
    'This transaction moves no USDC to an address of this account. Check network, token and receiver.',
  ],
  rpc_error: [400, true, 'No node of the chain could be asked. Nothing is lost: try again in some seconds.'],
  not_final: [400, true, 'The transaction is mined but too young to count. Wait some seconds and try again.'],
  signature_required: [
    400,
    false,
    'A public hash proves no payment. Sign message with the wallet that paid (personal_sign) and send it again with signature.',
  ],
  sender_mismatch: [403, false, 'The signature is not by the wallet that sent this transfer over the message for this account.'],
  already_claimed: [409, false, 'This payment was credited to another account. Payments are credited once.'],
  settlement_pending: [
    503,
    true,
    'Nobody can say yet whether the payment went through. Send the same request with the same payment again: it is charged and credited once. If it went through it is credited by itself.',
  ],
  topup_unconfigured: [503, false, 'This server takes no payments: its operator has set neither PAYTO_ADDRESS nor DEPOSIT_XPUB.'],
  price_source_unconfigured: [503, false, 'This server has no price source: its operator has not set PRICES_URL.'],
  price_source_failed: [
    502,
    true,
    'The price source did not answer with a list of prices; those in force stay. Look at reason, correct PRICES_URL or try again.',
  ],
  rate_limited: [429, true, 'Too many requests. Wait retry_after_ms and try again.'],
  internal_error: [500, true, 'Something failed on our side. Try again; if it stays, report the request_id.'],
  overloaded: [
    503,
    true,
    'The server is at capacity. Wait as long as Retry-After says and try again with the same Idempotency-Key.',
  ],
  stopping: [503, true, 'This process is about to end. Send what comes next to another one.'],
  database_unavailable: [
    503,
    true,
    'The database is not answering. Wait as long as Retry-After says and try again with the same Idempotency-Key.',
  ],
} as const satisfies Record<string, readonly [status: number, retryable: boolean, hint: string]>

export type ErrorCode = keyof typeof CODES

export const errorCodes = Object.keys(CODES) as ErrorCode[]

/** The HTTP status that belongs to an error code (contract section 1). */
export const statusOf = (code: ErrorCode): number => CODES[code][0]

type Details = Readonly<Record<string, unknown>>

/**
 * A failure that the caller can act on. Denials are values, not errors; anything that is not a
 * DomainError is a bug and answers 500 without its message.
 */
export class DomainError extends Error {
  readonly code: ErrorCode
  readonly hint: string
  readonly details: Details
  /** Seconds for the Retry-After header, when waiting helps. */
  readonly retryAfterSeconds: number | undefined
  readonly status: number

  /** @param options `status` where an operation's contract gives this code another one */
  constructor(
    code: ErrorCode,
    options: { hint?: string; details?: Details; retryAfterSeconds?: number; cause?: unknown; status?: number } = {},
  ) {
    const hint = options.hint ?? CODES[code][2]
    super(`${code}: ${hint}`, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'DomainError'
    this.code = code
    this.hint = hint
    this.details = options.details ?? {}
    this.retryAfterSeconds = options.retryAfterSeconds
    this.status = options.status ?? statusOf(code)
  }

  /** Whether sending the same request again can succeed. */
  get retryable(): boolean {
    return CODES[this.code][1]
  }

  /** The body every transport answers with: `{error, hint, retryable, …}` (contract section 1). */
  toBody(): { error: ErrorCode; hint: string; retryable: boolean } & Details {
    return { error: this.code, hint: this.hint, retryable: this.retryable, ...this.details }
  }
}
