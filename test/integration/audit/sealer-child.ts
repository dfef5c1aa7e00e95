// Seals the audit trail with short pauses until it is killed: `node --import tsx sealer-child.ts <database url>`.
import { Sealer } from '../../../src/audit/sealer.ts'
import { SyncedClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import { openDatabase } from '../../../src/db/client.ts'

const url = process.argv[2]
if (url === undefined) throw new Error('the database is missing')
const database = await openDatabase({ url, dataDir: '.' })
const sealer = new Sealer({ database, clock: new SyncedClock(), log: createLog('silent') }, { interval_ms: 1, lease_ms: 500 })
sealer.start()
process.stdout.write('ready\n')
// A started sealer alone does not keep a process alive.
setInterval(() => {}, 60_000)
