import { type Notice, short } from './notice.ts'

export type Mail = { readonly subject: string; readonly text: string; readonly html: string }

const HTML: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escapeHtml = (text: string): string => text.replaceAll(/[&<>"']/g, (character) => HTML[character] ?? '')

/** Header values stay one line and short; what an agent wrote has lost its control characters already (`plainLine`). */
const MAX_SUBJECT = 120

/** A mail as text and as HTML that holds without images, styles or a wide screen. */
export function mailOf(notice: Notice): Mail {
  const what = notice.facts[0]
  const text = [
    notice.title,
    '',
    ...notice.facts.map(({ label, text }) => `${label}: ${text}`),
    ...(notice.link ? ['', `${notice.link.text}:`, notice.link.url] : []),
    ...(notice.note ? ['', notice.note] : []),
    '',
  ].join('\n')
  const rows = notice.facts.map(
    ({ label, text }) =>
      `<p style="margin:0 0 14px"><span style="color:#5b5f63;font-size:14px">${escapeHtml(label)}</span><br><bdi style="font-size:17px;overflow-wrap:anywhere">${escapeHtml(text)}</bdi></p>`,
  )
  const button = notice.link
    ? `<p style="margin:24px 0"><a href="${escapeHtml(notice.link.url)}" style="display:inline-block;background:#0a6b4b;color:#ffffff;text-decoration:none;font-size:18px;font-weight:600;padding:14px 26px;border-radius:8px">${escapeHtml(notice.link.text)}</a></p>`
    : ''
  const note = notice.note ? `<p style="color:#5b5f63;font-size:14px;margin:0">${escapeHtml(notice.note)}</p>` : ''
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light"><title>${escapeHtml(notice.title)}</title></head><body style="margin:0;padding:24px 16px;background:#fcfcfa;color:#1a1c1e;font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif"><div style="max-width:520px;margin:0 auto"><h1 style="font-size:22px;line-height:1.25;margin:0 0 18px"><bdi>${escapeHtml(notice.title)}</bdi></h1>${rows.join('')}${button}${note}</div></body></html>`
  return { subject: short(what && notice.link ? `${notice.title}: ${what.text}` : notice.title, MAX_SUBJECT), text, html }
}

/** Slack's three escapes. Everything an agent wrote additionally goes into plain_text objects, which Slack does not parse. */
const escapeSlack = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

const slackText = (text: string, max: number) => ({ type: 'plain_text', text: short(text, max) || '–', emoji: false })

/** An incoming-webhook message of Slack (and of what imitates it). */
export function slackOf(notice: Notice): Record<string, unknown> {
  return {
    text: escapeSlack(short(notice.title, 300)),
    unfurl_links: false,
    unfurl_media: false,
    blocks: [
      { type: 'header', text: slackText(notice.title, 150) },
      ...(notice.facts.length > 0
        ? [{ type: 'section', fields: notice.facts.map(({ label, text }) => slackText(`${label}\n${text}`, 1900)) }]
        : []),
      ...(notice.link
        ? [
            {
              type: 'actions',
              elements: [{ type: 'button', style: 'primary', text: slackText(notice.link.text, 75), url: notice.link.url }],
            },
          ]
        : []),
      ...(notice.note ? [{ type: 'context', elements: [slackText(notice.note, 1900)] }] : []),
    ],
  }
}

/** Every ASCII punctuation mark, so that nothing an agent wrote becomes markup, a mention or a link. */
const escapeDiscord = (text: string): string => text.replaceAll(/[!-/:-@[-`{-~]/g, '\\$&')

/** A webhook message of Discord; nobody is mentioned whatever it says. */
export function discordOf(notice: Notice): Record<string, unknown> {
  const link = notice.link ? [{ name: '\u200b', value: `**[${notice.link.text}](<${notice.link.url}>)**`, inline: false }] : []
  return {
    allowed_mentions: { parse: [] },
    embeds: [
      {
        title: escapeDiscord(short(notice.title, 120)),
        color: 0x0a6b4b,
        fields: [
          ...notice.facts.map(({ label, text }) => ({
            name: escapeDiscord(short(label, 100)),
            value: escapeDiscord(short(text, 500)) || '–',
            inline: false,
          })),
          ...link,
        ],
        ...(notice.note && { footer: { text: notice.note } }),
      },
    ],
  }
}

/** The fields of a bot's sendMessage, without a parse mode: Telegram then takes the text as it is. */
export function telegramOf(notice: Notice): Record<string, unknown> {
  const lines = [notice.title, '', ...notice.facts.map(({ label, text }) => `${label}: ${text}`)]
  const { link } = notice
  // Telegram refuses buttons to addresses that are not public, such as a server on one's own machine.
  const hasButton = link?.url.startsWith('https://') ?? false
  if (link && !hasButton) lines.push('', `${link.text}: ${link.url}`)
  if (notice.note) lines.push('', notice.note)
  return {
    text: short(lines.join('\n'), 4000),
    link_preview_options: { is_disabled: true },
    ...(link && hasButton && { reply_markup: { inline_keyboard: [[{ text: link.text, url: link.url }]] } }),
  }
}
