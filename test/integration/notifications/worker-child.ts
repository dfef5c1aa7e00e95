// Runs an outbox worker with short pauses until it is killed: `node --import tsx worker-child.ts <database url>`.
import { SyncedClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import { SecretBox } from '../../../src/core/secrets.ts'
import { openDatabase } from '../../../src/db/client.ts'
import { Delivery } from '../../../src/notifications/delivery.ts'
import { Outbound } from '../../../src/notifications/outbound.ts'
import { EndpointSealing } from '../../../src/notifications/sealing.ts'
import { OutboxWorker } from '../../../src/notifications/worker.ts'

const url = process.argv[2]
if (url === undefined) throw new Error('the database is missing')
const database = await openDatabase({ url, dataDir: '.' })
const outbound = new Outbound({ allowPrivate: true, timeout_ms: 250 })
const delivery = new Delivery(
  {
    outbound,
    mailer: null,
    addressOf: async () => null,
    mayMail: async () => ({ allowed: true, retry_after_ms: 0 }),
    sealing: new EndpointSealing(new SecretBox([])),
  },
  { telegramUrl: 'https://telegram.invalid', mailDomain: 'example.com' },
)
const worker = new OutboxWorker(
  { database, clock: new SyncedClock(), log: createLog('silent'), delivery },
  {
    concurrency: 64,
    perEndpoint: 16,
    lease_ms: 1500,
    poll_ms: 25,
    pause_ms: 10,
    busyUtilization: 1,
    backoff_ms: Array.from({ length: 40 }, () => 60),
  },
)
worker.start()
process.stdout.write('ready\n')
// A started worker alone does not keep a process alive.
setInterval(() => {}, 60_000)
