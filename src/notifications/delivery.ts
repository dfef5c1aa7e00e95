import { redact } from '../core/log.ts'
import { discordOf, mailOf, slackOf, telegramOf } from './formats.ts'
import { isRefusedForGood, type Mailer } from './mailer.ts'
import { noticeOf, short } from './notice.ts'
import { BlockedAddressError, type Outbound } from './outbound.ts'
import type { EndpointSealing } from './sealing.ts'
import { signatureHeaders } from './signature.ts'
import { EMAIL_ENDPOINT, type Endpoint, type Message } from './store.ts'

/** How one attempt to deliver ended. `outcome` is for people and holds nothing secret. */
export type Result = {
  readonly state: 'sent' | 'retry' | 'failed'
  readonly outcome: string
  /** How long the receiver asks to be left alone. */
  readonly retryAfter_ms?: number | null
}

export type Deliverable = Pick<
  Message,
  'accountId' | 'endpointId' | 'eventId' | 'event' | 'priority' | 'body' | 'link' | 'atMs' | 'expiresMs'
> & {
  readonly endpoint: Endpoint | null
}

export type DeliveryDeps = {
  readonly outbound: Outbound
  readonly mailer: Mailer | null
  readonly addressOf: (accountId: string) => Promise<string | null>
  /** Counts a mail against what one address is sent by all accounts together. */
  readonly mayMail: (address: string) => Promise<{ allowed: boolean; retry_after_ms: number }>
  readonly sealing: EndpointSealing
}
export type DeliveryOptions = { readonly telegramUrl: string; readonly mailDomain: string }

/** Sends messages in the form their endpoint wants. Never throws: how it went is the result. */
export class Delivery {
  readonly #deps: DeliveryDeps
  readonly #options: DeliveryOptions

  constructor(deps: DeliveryDeps, options: DeliveryOptions) {
    this.#deps = deps
    this.#options = options
  }

  /** False when no mail server is configured. */
  get hasMail(): boolean {
    return this.#deps.mailer !== null
  }

  async deliver(message: Deliverable, now_ms: number): Promise<Result> {
    if (message.expiresMs !== null && message.expiresMs <= now_ms)
      return { state: 'failed', outcome: 'it expired before it could be delivered' }
    try {
      if (message.endpointId === EMAIL_ENDPOINT) return await this.#mail(message)
      if (message.endpoint === null || !message.endpoint.enabled)
        return { state: 'failed', outcome: 'the receiver was removed or switched off' }
      return await this.#post(message, this.#deps.sealing.open(message.endpoint), now_ms)
    } catch (error) {
      if (error instanceof BlockedAddressError) return { state: 'failed', outcome: error.message }
      return { state: 'retry', outcome: reasonOf(error) }
    }
  }

  async #mail(message: Deliverable): Promise<Result> {
    const { mailer } = this.#deps
    if (mailer === null) return { state: 'failed', outcome: 'this server has no mail server configured' }
    const address = await this.#deps.addressOf(message.accountId)
    if (address === null) return { state: 'failed', outcome: 'the account has no notification address' }
    const { allowed, retry_after_ms } = await this.#deps.mayMail(address)
    if (!allowed)
      return { state: 'retry', outcome: 'this address gets too many mails: it goes on in a while', retryAfter_ms: retry_after_ms }
    const mail = mailOf(noticeOf(message.event, parse(message.body), message.link))
    try {
      await mailer.send(address, mail, { messageId: `<${message.eventId}@${this.#options.mailDomain}>` })
      return { state: 'sent', outcome: 'the mail server took it' }
    } catch (error) {
      if (isRefusedForGood(error)) return { state: 'failed', outcome: reasonOf(error) }
      throw error
    }
  }

  async #post(message: Deliverable, endpoint: Endpoint, now_ms: number): Promise<Result> {
    const { url, body, headers } = this.#requestOf(message, endpoint, now_ms)
    const { status, retryAfter_ms } = await this.#deps.outbound.postJson(url, body, { priority: message.priority, headers })
    const outcome = `answered ${status}`
    if (status >= 200 && status < 300) return { state: 'sent', outcome }
    // 410 Gone: the receiver says that it is there no more (Standard Webhooks). A redirect is an address nobody agreed to.
    if (status === 410 || (status >= 300 && status < 400)) return { state: 'failed', outcome }
    return { state: 'retry', outcome, retryAfter_ms }
  }

  #requestOf(message: Deliverable, endpoint: Endpoint, now_ms: number) {
    const data = parse(message.body)
    switch (endpoint.kind) {
      case 'slack':
        return { url: endpoint.target, body: json(slackOf(noticeOf(message.event, data, message.link))), headers: {} }
      case 'discord':
        return { url: endpoint.target, body: json(discordOf(noticeOf(message.event, data, message.link))), headers: {} }
      case 'telegram': {
        const fields = { chat_id: endpoint.target, ...telegramOf(noticeOf(message.event, data, message.link)) }
        return { url: `${this.#options.telegramUrl}/bot${endpoint.secret ?? ''}/sendMessage`, body: json(fields), headers: {} }
      }
      case 'webhook': {
        const body = json({
          type: message.event,
          timestamp: new Date(message.atMs).toISOString(),
          data: { ...data, ...(message.link !== null && { approval_url: message.link }) },
        })
        const id = `msg_${message.eventId.replaceAll('-', '')}`
        return { url: endpoint.target, body, headers: signatureHeaders(endpoint.secret ?? '', id, body, now_ms) }
      }
    }
  }
}

const json = (value: unknown): string => JSON.stringify(value)
const parse = (body: string): Record<string, unknown> => JSON.parse(body) as Record<string, unknown>

/** A failure in a few words. Codes and classes rather than whatever the other side wrote, cut and without secrets. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'it failed'
  if (error.name === 'TimeoutError') return 'no answer in time'
  const code = 'code' in error && typeof error.code === 'string' ? `${error.code} ` : ''
  return short(redact(`${code}${error.message}`), 200)
}
