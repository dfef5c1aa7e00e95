import type { AddressInfo } from 'node:net'
import PostalMime, { type Email } from 'postal-mime'
import { SMTPServer } from 'smtp-server'

/** A mail server that keeps what it takes. */
export type Mailbox = {
  readonly url: string
  readonly mails: { to: string[]; mail: Email }[]
  /** Answers every recipient with this code; null takes them again. */
  refuse(code: number | null): void
  close(): Promise<void>
}

export async function startMailbox(): Promise<Mailbox> {
  const mails: Mailbox['mails'] = []
  let code: number | null = null
  const server = new SMTPServer({
    disabledCommands: ['AUTH', 'STARTTLS'],
    onRcptTo: (_address, _session, done) => done(code === null ? null : Object.assign(new Error('no'), { responseCode: code })),
    onData(stream, session, done) {
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.on('end', async () => {
        const mail = await PostalMime.parse(Buffer.concat(chunks))
        mails.push({ to: session.envelope.rcptTo.map(({ address }) => address), mail })
        done()
      })
    },
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `smtp://127.0.0.1:${(server.server.address() as AddressInfo).port}`,
    mails,
    refuse: (next) => {
      code = next
    },
    close: () => new Promise((resolve) => server.close(() => resolve())),
  }
}
