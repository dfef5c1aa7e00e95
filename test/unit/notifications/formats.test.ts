import { createTransport } from 'nodemailer'
import PostalMime from 'postal-mime'
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { discordOf, mailOf, slackOf, telegramOf } from '../../../src/notifications/formats.ts'
import { noticeOf } from '../../../src/notifications/notice.ts'
import { newSigningSecret, signatureHeaders } from '../../../src/notifications/signature.ts'
import { NASTY } from '../../support/nasty.ts'

const LINK = 'https://gvnr.example.com/approve/ap_0123456789abcdefABCDEF0123456789'
const noticeWith = (text: string) =>
  noticeOf(
    'approval.requested',
    { agent_id: text, action_summary: text, effect: `raises ${text} from $5.00 to $10.00 a day`, expires_at: 0 },
    LINK,
  )

describe.each(NASTY)('what an agent wrote: %j', (text) => {
  const notice = noticeWith(text)

  it('stays one visible line of text', () => {
    for (const { text: shown } of notice.facts) {
      expect(shown).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u)
      expect(shown).not.toMatch(/[\u202a-\u202e\u2066-\u2069\u200b\u2060\ufeff]/)
    }
  })

  it('is no markup in a mail', () => {
    const { html } = mailOf(notice)
    const tags = [...html.matchAll(/<([a-z!/][^\s>]*)/gi)].map(([, name]) => name!.toLowerCase())
    const ours = mailOf(noticeWith('plain')).html
    expect(tags).toEqual([...ours.matchAll(/<([a-z!/][^\s>]*)/gi)].map(([, name]) => name!.toLowerCase()))
    expect([...html.matchAll(/href="([^"]*)"/g)].map(([, url]) => url)).toEqual([LINK])
  })

  it('adds no header, no recipient and no part to a mail', async () => {
    const mail = mailOf(notice)
    const transport = createTransport({ streamTransport: true, buffer: true, newline: 'windows' })
    const sent = await transport.sendMail({ from: 'gvnr@example.com', to: { name: '', address: 'owner@example.com' }, ...mail })
    const parsed = await PostalMime.parse(sent.message as Buffer)
    expect(parsed.to).toEqual([{ name: '', address: 'owner@example.com' }])
    expect(parsed.bcc ?? []).toEqual([])
    expect(parsed.cc ?? []).toEqual([])
    expect(parsed.subject).toBe(mail.subject)
    expect(parsed.subject).not.toMatch(/[\r\n]/)
    expect(parsed.attachments).toEqual([])
    expect(parsed.headers.map(({ key }) => key).sort()).toEqual(
      ['content-type', 'date', 'from', 'message-id', 'mime-version', 'subject', 'to'].sort(),
    )
  })

  it('mentions nobody and links nowhere on Slack', () => {
    const message = slackOf(notice) as { text: string; blocks: { type: string; fields?: { type: string }[] }[] }
    expect(message.text).not.toMatch(/[<>]/)
    const texts = JSON.stringify(message).matchAll(/"type":"(mrkdwn|plain_text)"/g)
    expect(new Set([...texts].map(([, type]) => type))).toEqual(new Set(['plain_text']))
    expect([...JSON.stringify(message).matchAll(/"url":"([^"]*)"/g)].map(([, url]) => url)).toEqual([LINK])
  })

  it('mentions nobody and links nowhere on Discord', () => {
    const message = discordOf(notice) as { allowed_mentions: unknown; embeds: { title: string; fields: { value: string }[] }[] }
    expect(message.allowed_mentions).toEqual({ parse: [] })
    const [embed] = message.embeds
    const written = [embed!.title, ...embed!.fields.slice(0, -1).map(({ value }) => value)]
    for (const value of written) expect(value.replaceAll(/\\[!-/:-@[-`{-~]/g, '')).not.toMatch(/[!-/:-@[-`{-~]/)
    expect(embed!.fields.at(-1)!.value).toContain(LINK)
  })

  it('is sent to Telegram without a parse mode', () => {
    const message = telegramOf(notice)
    expect(message).not.toHaveProperty('parse_mode')
    expect(JSON.stringify(message.reply_markup)).toContain(LINK)
  })
})

describe('limits of the receivers', () => {
  const notice = noticeWith('é'.repeat(280))

  it('keeps within the lengths that Slack, Discord and Telegram take', () => {
    const slack = slackOf(notice) as { blocks: { type: string; text?: { text: string } }[] }
    expect(slack.blocks.find(({ type }) => type === 'header')!.text!.text.length).toBeLessThanOrEqual(150)
    const discord = discordOf(notice) as { embeds: { title: string; fields: { value: string }[] }[] }
    expect(discord.embeds[0]!.title.length).toBeLessThanOrEqual(256)
    for (const { value } of discord.embeds[0]!.fields) expect(value.length).toBeLessThanOrEqual(1024)
    expect((telegramOf(notice).text as string).length).toBeLessThanOrEqual(4096)
  })

  it('gives a link to a private server as text to Telegram, which refuses it as a button', () => {
    const local = noticeOf('approval.requested', { agent_id: 'a', action_summary: 'b' }, 'http://127.0.0.1:8787/approve/ap_x')
    expect(telegramOf(local)).not.toHaveProperty('reply_markup')
    expect(telegramOf(local).text).toContain('http://127.0.0.1:8787/approve/ap_x')
  })
})

describe('signatures', () => {
  it('are what the Standard Webhooks library verifies', () => {
    const secret = newSigningSecret()
    const body = JSON.stringify({ type: 'test', data: { text: 'é 👋' } })
    const headers = signatureHeaders(secret, 'msg_1', body, Date.now())
    expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body))
    expect(() => new Webhook(secret).verify(`${body} `, headers)).toThrow(/signature/i)
    expect(() => new Webhook(newSigningSecret()).verify(body, headers)).toThrow(/signature/i)
    expect(() => new Webhook(secret).verify(body, signatureHeaders(secret, 'msg_1', body, Date.now() - 600_000))).toThrow(/old/i)
  })
})
