import { type Context, contenderOf, interleave, preparePostgres, startServer, type Variant, warmUp } from './context.ts'
import { fillAccounts, fillClearances, settleDatabase } from './fill.ts'
import { ratioOf, SUMMARY_COLUMNS, SUMMARY_NOTE, short, summarize, summaryCells } from './report.ts'
import type { Workload } from './workload.ts'

const CONNECTIONS = 64
const ENVELOPES = 10_000
const ACCOUNTS = 100_000
const AGENTS = 10
/** How far a rate may fall when the data grows. */
const LEAST = 0.8

/** `base` names the line it is compared with, null for those others are compared with. */
type Line = Variant & { readonly base: string | null }

/** Whether the rate holds when an account has many envelopes, the database many accounts, the past many clearances. */
export async function scale(context: Context): Promise<void> {
  const stored = context.effort.storedClearances
  const small = await preparePostgres(context, 'bench_small', async (sql) => {
    await fillAccounts(sql, { first: 0, accounts: 1, agents: 1 })
    await fillAccounts(sql, { first: 1, accounts: 1, agents: ENVELOPES })
    await fillAccounts(sql, { first: 2, accounts: 1000, agents: 1 })
    await settleDatabase(sql)
  })
  const manyAccounts = await preparePostgres(context, 'bench_accounts', async (sql) => {
    await fillAccounts(sql, { first: 0, accounts: ACCOUNTS, agents: 1 })
    await settleDatabase(sql)
  })
  const past = { first: 0, accounts: 1000, agents: AGENTS }
  const manyClearances = await preparePostgres(context, 'bench_clearances', async (sql) => {
    await fillAccounts(sql, past)
    await fillClearances(sql, past, stored)
    await settleDatabase(sql)
  })
  const start = (url: string) => startServer(context, { url, dataDir: context.folder })
  const servers = { small: await start(small), accounts: await start(manyAccounts), clearances: await start(manyClearances) }
  const plain: Workload = { kind: 'clear', transport: 'rest', firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' }
  await warmUp(context, Object.values(servers), plain)

  const line = (name: string, server: keyof typeof servers, traffic: Partial<Workload>, base: string | null): Line => ({
    name,
    servers: [servers[server]],
    connections: CONNECTIONS,
    workload: { ...plain, ...traffic },
    base,
  })
  const one = 'one agent'
  const spread = 'evenly over 1,000 accounts'
  const loop = 'one agent, clear + reconcile'
  const count = stored.toLocaleString('en-US')
  const lines: Line[] = [
    line(one, 'small', {}, null),
    line(spread, 'small', { firstAccount: 2, accounts: 1000 }, null),
    line(loop, 'small', { kind: 'clear_reconcile' }, null),
    line('one agent of 10,000 in the account', 'small', { firstAccount: 1 }, one),
    line('evenly over 10,000 agents of one account', 'small', { firstAccount: 1, agents: ENVELOPES }, one),
    line('one agent, 100,000 accounts stored', 'accounts', {}, one),
    line('evenly over 1,000 accounts, 100,000 stored', 'accounts', { accounts: 1000 }, spread),
    line('evenly over 100,000 accounts', 'accounts', { accounts: ACCOUNTS }, spread),
    line(`one agent, ${count} clearances stored`, 'clearances', {}, one),
    line(`evenly over 1,000 accounts, ${count} clearances stored`, 'clearances', { accounts: 1000 }, spread),
    line(`one agent, clear + reconcile, ${count} clearances stored`, 'clearances', { kind: 'clear_reconcile' }, loop),
  ]
  const samples = await interleave(
    context,
    lines.map((variant) => contenderOf(context, variant)),
  )
  for (const server of Object.values(servers)) await server.stop()

  const { report } = context
  report.samples('scale', samples)
  const ratio = ({ name, base }: Line): number => ratioOf(samples.get(name), base === null ? undefined : samples.get(base))
  report.table({
    title: 'Rate as the data grows',
    note: `REST clear on PostgreSQL, ${CONNECTIONS} connections. × base: to the same traffic on the small database (the first three lines). ${SUMMARY_NOTE}`,
    columns: ['', '× base', ...SUMMARY_COLUMNS],
    rows: lines.map((one) => [one.name, short(ratio(one)), ...summaryCells(summarize(samples.get(one.name) ?? []))]),
  })
  for (const one of lines.filter(({ base }) => base !== null)) {
    const measured = ratio(one)
    report.target({
      what: `${one.name} ÷ ${one.base}`,
      wanted: String(LEAST),
      measured: short(measured),
      isMet: measured >= LEAST,
    })
  }
}
