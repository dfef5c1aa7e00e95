import { expect, it } from 'vitest'
import { SecretBox } from '../../../src/core/secrets.ts'
import { Delivery } from '../../../src/notifications/delivery.ts'
import { Outbound } from '../../../src/notifications/outbound.ts'
import { EndpointSealing } from '../../../src/notifications/sealing.ts'
import { EMAIL_ENDPOINT } from '../../../src/notifications/store.ts'

it('sends no mail beyond what an address may get, and tries again when it may', async () => {
  const sent: string[] = []
  let allowed = false
  const delivery = new Delivery(
    {
      outbound: new Outbound({ allowPrivate: false }),
      mailer: { send: async (to) => void sent.push(to), close: () => {} },
      addressOf: async () => 'victim@example.com',
      mayMail: async () => ({ allowed, retry_after_ms: 900_000 }),
      sealing: new EndpointSealing(new SecretBox([])),
    },
    { telegramUrl: 'https://telegram.invalid', mailDomain: 'example.com' },
  )
  const message = {
    accountId: 'a',
    endpointId: EMAIL_ENDPOINT,
    eventId: '019ab5c4-8f3e-7c21-b6d0-5a9e1f7c3b28',
    event: 'approval.requested',
    priority: 'urgent' as const,
    body: '{"agent_id":"crawler","action_summary":"x"}',
    link: null,
    atMs: 0,
    expiresMs: null,
    endpoint: null,
  }
  expect(await delivery.deliver(message, 0)).toMatchObject({ state: 'retry', retryAfter_ms: 900_000 })
  expect(sent).toEqual([])
  allowed = true
  expect(await delivery.deliver(message, 0)).toMatchObject({ state: 'sent' })
  expect(sent).toEqual(['victim@example.com'])
})
