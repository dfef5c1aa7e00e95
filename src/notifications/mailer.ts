import { createTransport } from 'nodemailer'
import type { Mail } from './formats.ts'

export type Mailer = {
  /** Resolves when the mail server has taken the mail. */
  send(to: string, mail: Mail, options: { messageId: string }): Promise<void>
  close(): void
}

const TIMEOUT_MS = 10_000

/** Mail through an SMTP server. @param url e.g. `smtps://user:password@mail.example.com` */
export function createMailer(url: string, from: string): Mailer {
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: 2,
    connectionTimeout: TIMEOUT_MS,
    greetingTimeout: TIMEOUT_MS,
    socketTimeout: TIMEOUT_MS,
    // Nothing in a mail may make this server read a file or call an address.
    disableFileAccess: true,
    disableUrlAccess: true,
  })
  return {
    async send(to, mail, { messageId }) {
      await transport.sendMail({
        // As an object, the address is taken as it is and never parsed into several.
        to: { name: '', address: to },
        from,
        subject: mail.subject,
        text: mail.text,
        html: mail.html,
        messageId,
        headers: { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' },
      })
    },
    close: () => transport.close(),
  }
}

/** The mail server refused for good (RFC 5321: 5xx); everything else may pass later. */
export const isRefusedForGood = (error: unknown): boolean =>
  error instanceof Error && 'responseCode' in error && typeof error.responseCode === 'number' && error.responseCode >= 500
